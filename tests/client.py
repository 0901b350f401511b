"""A client of llmstream as a developer would write it with requests, and readers for its two kinds of stream."""
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import requests

T = TypeVar("T")
PATIENCE_S = 25  # no stream of a test lasts longer; pings would keep a forgotten one alive for ever


def eventually(look: Callable[[], T], within: float = 5.0, what: str = "it") -> T:
    """Look again and again until something true is seen; for states that only a look can show."""
    end = time.monotonic() + within
    while not (seen := look()):
        assert time.monotonic() < end, f"{what} did not happen within {within} s (last seen: {seen!r})"
        time.sleep(0.02)
    return seen


class Client:
    """Every call on a connection of its own, so that any worker may take it."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url, self.headers = url, headers or {}

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        session = requests.Session()
        session.trust_env = False
        session.headers.update({"Connection": "close"} | self.headers)
        options.setdefault("timeout", 20)
        return session.request(method, self.url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def ask(self, prompt: Any = None, *, accept: str | None = None, headers: dict[str, str] | None = None,
            **fields: Any) -> requests.Response:
        """POST /stream with these fields; the answer is still to be read."""
        body = fields if prompt is None else {"prompt": prompt, **fields}
        return self.call("POST", "/stream", json=body, headers=_accepting(accept, headers), stream=True)

    def stream_text(self, prompt: Any = None, **options: Any) -> "TextStream":
        return TextStream(self.ask(prompt, **options))

    def stream_events(self, prompt: Any = None, **options: Any) -> "EventStream":
        return EventStream(self.ask(prompt, accept="text/event-stream", **options))

    def reattach(self, completion_id: int, after: Any = None, *, accept: str | None = None,
                 headers: dict[str, str] | None = None) -> requests.Response:
        query = "" if after is None else f"?after={after}"
        return self.call("GET", f"/stream/{completion_id}{query}", headers=_accepting(accept, headers), stream=True)

    def reattach_text(self, completion_id: int, after: Any = None, **options: Any) -> "TextStream":
        return TextStream(self.reattach(completion_id, after, **options))

    def reattach_events(self, completion_id: int, after: Any = None, **options: Any) -> "EventStream":
        return EventStream(self.reattach(completion_id, after, accept="text/event-stream", **options))

    def stop(self, completion_id: int) -> requests.Response:
        return self.call("DELETE", f"/stream/{completion_id}")

    def history(self, completion_id: int | None = None, **query: Any) -> dict[str, Any]:
        path = "/history" if completion_id is None else f"/history/{completion_id}"
        response = self.call("GET", path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def page(self, path: str) -> requests.Response:
        """The same address as a browser asks for it."""
        return self.get(path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})

    def finished(self, completion_id: int, within: float = 10.0) -> dict[str, Any]:
        """The completion once nobody writes it any more."""
        def over() -> dict[str, Any] | None:
            row = self.history(completion_id)
            return row if row["status"] != "in_progress" else None
        row = eventually(over, within, f"the end of completion {completion_id}")
        assert row
        return row


def _accepting(accept: str | None, headers: dict[str, str] | None) -> dict[str, str]:
    return ({"Accept": accept} if accept else {}) | (headers or {})


class TextStream:
    """An answer being read piece by piece as it arrives."""

    def __init__(self, response: requests.Response) -> None:
        assert response.status_code == 200, f"{response.status_code} {response.text}"
        self.response = response
        self.completion_id = int(response.headers["Completion-Id"])
        self.conversation_id = int(response.headers["Conversation-Id"])
        self.pieces: list[bytes] = []
        self.cut = False
        self._deadline = time.monotonic() + PATIENCE_S
        self._incoming = response.iter_content(None)

    def more(self) -> bytes:
        """The next piece; empty at the end. `cut` tells which end it was."""
        assert time.monotonic() < self._deadline, f"the stream did not end in {PATIENCE_S} s: {self.received[-500:]!r}"
        try:
            piece = next(self._incoming, b"")
        except requests.exceptions.ChunkedEncodingError:
            self.cut, piece = True, b""
        if piece:
            self.pieces.append(piece)
        return piece

    def read_until(self, text: str) -> None:
        """Read no further than the piece with which `text` has come whole."""
        while text.encode() not in self.received:
            assert self.more(), f"the stream ended before {text!r}: {self.received!r}"

    def rest(self) -> bytes:
        while self.more():
            pass
        return self.received

    def text(self) -> str:
        """The whole of a completed answer."""
        received = self.rest().decode()
        assert not self.cut, f"the answer was cut after {received!r}"
        return received

    @property
    def received(self) -> bytes:
        return b"".join(self.pieces)

    def leave(self) -> None:
        """Hang up, as a closed tab does."""
        self.response.close()


@dataclass(frozen=True)
class Event:
    name: str
    data: dict[str, Any]
    id: str | None


class EventStream(TextStream):
    """The same for `text/event-stream`: the tests' own reader, so that the service's parser does not judge itself."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response)
        assert response.headers["Content-Type"].startswith("text/event-stream"), response.headers
        self.events: list[Event] = []
        self.comments: list[str] = []
        self._buffer = b""

    def next(self) -> Event | None:
        """The next event, None at the end."""
        while b"\n\n" not in self._buffer:
            if not (piece := self.more()):
                return None
            self._buffer += piece
        block, self._buffer = self._buffer.split(b"\n\n", 1)
        fields: dict[str, str] = {}
        for line in block.decode().split("\n"):
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            else:
                self.comments.append(value.strip())
        if "data" not in fields:
            return self.next()
        self.events.append(Event(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id")))
        return self.events[-1]

    def __iter__(self) -> Iterator[Event]:
        while (event := self.next()) is not None:
            yield event

    def until(self, name: str) -> Event:
        """Read as far as the next event of this name."""
        for event in self:
            if event.name == name:
                return event
        raise AssertionError(f"the stream ended without {name}: {self.events}")

    def end(self) -> Event:
        """Read all; the last event."""
        list(self)
        return self.events[-1]

    def deltas(self) -> str:
        return "".join(event.data["text"] for event in self.events if event.name == "delta")
