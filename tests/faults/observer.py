"""One client, that notes down all that can be seen of one answer."""
import http.client
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

ENDS = ("completed", "failed", "incomplete", "cancelled")
PATIENCE_S = 90.0  # no answer of a fault takes longer


@dataclass
class Seen:
    """One client's log. Times are `time.monotonic()`, which is the same clock in every process of this machine."""

    prompt: str
    events: bool = False  # did it ask for text/event-stream?
    asked_at: float = 0.0
    status: int | None = None  # None: the connection broke before any answer
    completion_id: int | None = None  # what the headers or `created` said
    opened_at: float | None = None
    text: str = ""
    arrivals: list[tuple[float, int]] = field(default_factory=list)  # when, and how many bytes of text there were then
    ended: str = "running"  # "clean" (the last chunk came), "cut", "left" (it hung up itself), "refused", "unreached"
    end: dict[str, Any] | None = None  # the data of the last event, with "event": its name; or a problem document
    ended_at: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.completion_id is not None and self.status is not None and 200 <= self.status < 300

    @property
    def succeeded(self) -> bool:
        """Was this client told that its answer is whole?"""
        return self.ended == "clean" and (not self.events or (self.end or {}).get("event") == "completed")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Seen":
        return cls(**json.loads(line))


def observe(seen: Seen, url: str) -> None:
    """Send the prompt and note down all that can be seen of the answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    accept = "text/event-stream" if seen.events else "text/plain"
    fields = {"Content-Type": "application/json", "Accept": accept, "Connection": "close"}
    seen.asked_at = time.monotonic()
    try:
        connection.request("POST", "/stream", json.dumps({"prompt": seen.prompt}), fields)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        seen.ended, seen.end = "unreached", {"detail": repr(error)}
    else:
        _read(seen, response)
    seen.ended_at = time.monotonic()
    connection.close()


def _read(seen: Seen, response: http.client.HTTPResponse) -> None:
    seen.status, seen.opened_at = response.status, time.monotonic()
    if "Completion-Id" in response.headers:
        seen.completion_id = int(response.headers["Completion-Id"])
    received = b""
    try:
        while piece := response.read1(65536):
            received += piece
            if seen.status == 200:
                received = _take(seen, received)
        seen.ended = "clean"
    except (OSError, http.client.HTTPException) as error:
        seen.ended = "cut"
        if isinstance(error, TimeoutError):
            seen.end = {"detail": "silent for too long", "event": "silence", "error_type": None}
    if seen.status != 200:
        seen.ended = "refused"
        with suppress(ValueError):
            seen.end = json.loads(received)


def _take(seen: Seen, received: bytes) -> bytes:
    """Note what has come; returns what is not whole yet."""
    if not seen.events:
        cut = len(received)
        while cut and len(received[:cut].decode(errors="ignore").encode()) != cut:
            cut -= 1
        _arrived(seen, received[:cut].decode())
        return received[cut:]
    while b"\n\n" in received:
        block, received = received.split(b"\n\n", 1)
        fields: dict[str, str] = dict(line.split(": ", 1) for line in block.decode().split("\n") if line[:1] != ":")
        data: dict[str, Any] = json.loads(fields.get("data", "null"))
        if fields.get("event") == "delta":
            _arrived(seen, data["text"])
        elif fields.get("event") == "created":
            seen.completion_id = data["completion_id"]
        elif fields.get("event") in ENDS:
            seen.end = data | {"event": fields["event"]}
    return received


def _arrived(seen: Seen, text: str) -> None:
    if text:
        seen.text += text
        seen.arrivals.append((round(time.monotonic(), 4), len(seen.text.encode())))
