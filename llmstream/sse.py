"""Event streams: bytes to events and back (WHATWG HTML, 9.2 "Server-sent events"). Knows nothing of models or HTTP."""

from __future__ import annotations

from typing import NamedTuple

PING = b": ping\n\n"


class Event(NamedTuple):
    event: str
    data: str
    id: str


class TooLong(ValueError):
    """One event grew beyond the limit."""


def encode(event: str, data: str, event_id: int | str = "") -> bytes:
    """One event. `data` must hold no line break (JSON has none); `event` and `event_id` are ours, never a user's text."""
    number = f"id: {event_id}\n" if event_id != "" else ""
    return f"{number}event: {event}\ndata: {data}\n\n".encode()


class Parser:
    """Feed it bytes as they arrive, split anywhere; it gives the events that are complete.

    Lines end with CR, LF or CRLF. Decoding waits for whole lines, so a character may be split over two reads.
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = limit  # bytes of one event
        self._line: list[bytes] = []  # pieces of the line that has not ended yet
        self._after_cr = False
        self._first = True
        self._reset()

    def _reset(self) -> None:
        self._event, self._id, self._size = "", "", 0
        self._data: list[str] = []

    def check(self) -> None:
        """Raise TooLong if an event is. Apart from `feed`, so that the events before it are not lost."""
        if self._size > self.limit:
            raise TooLong(f"one event is longer than {self.limit} bytes")

    def feed(self, received: bytes) -> list[Event]:
        """The events that these bytes complete. What follows an event that is too long is passed over: see `check`."""
        if self._after_cr and received:
            received = received[1:] if received[:1] == b"\n" else received
            self._after_cr = False
        events = []
        for line in received.splitlines(keepends=True):  # bytes split at CR, LF and CRLF only
            self._size += len(line) - line.endswith(b"\r\n")  # CRLF counts once, since it may be split over two reads
            if self._size > self.limit:
                break
            self._line.append(line)
            if line.endswith((b"\n", b"\r")):
                whole, self._line = b"".join(self._line).rstrip(b"\r\n"), []
                event = self._take(whole)
                if event:
                    events.append(event)
        self._after_cr = received.endswith(b"\r") or (self._after_cr and not received)
        return events

    def _take(self, line: bytes) -> Event | None:
        text = line.decode("utf-8", "replace")
        if self._first:
            self._first, text = False, text.removeprefix("\ufeff")
        if not text:
            return self._dispatch()
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif not name:  # a comment
            self._size = sum(map(len, self._data))
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._event or "message", "\n".join(self._data), self._id) if self._data else None
        self._reset()
        return event
