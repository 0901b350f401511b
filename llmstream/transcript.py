"""The text of one answer in memory: one greenlet writes it, the flusher stores it, any number of readers follow it."""

from __future__ import annotations

import time
from typing import Any

from gevent.event import Event

from .endings import Ending, broken

FINISH_WAIT_S = 30.0  # how long a reader waits for the ending to be stored before its stream is cut
TIMELINE_POINTS = 500
PIECE_BYTES = 65536  # handed out at a time: a client has LLMSTREAM_READER_TIMEOUT_S for each, however long the whole is


class Lost(Exception):
    """This worker may not write the answer any more: it was recovered by another one, deleted, or cannot be held."""


class Transcript:
    """One answer as this worker knows it: its own (`row` is what was stored first), or a copy of another worker's.

    `ending` is how it ended; `ended` is the same once it is stored, and only that is shown to readers.
    """

    max_unstored_s = 5.0
    ping_s = 10.0

    def __init__(self, row: dict[str, Any] | None = None, completion_id: int | None = None) -> None:
        self.row = row or {}
        self.id = completion_id
        self.conversation_id: int | None = self.row.get("conversation_id")
        self.text = bytearray()
        self.stored = 0  # bytes that are committed
        self.unstored_since: float | None = None
        self.piece_end: int | None = None  # of a piece whose commit is uncertain: it is written again as it was
        self.ending: Ending | None = None
        self.ended: Ending | None = None
        self.response_model: str | None = None
        self.dropped_turns: int = self.row.get("dropped_turns", 0)
        self.retry_after: int | None = None  # seconds, where the model's server named them
        self.started = time.monotonic()
        self.first_token_ms: int | None = None
        self.duration_ms: int | None = None
        self.timeline: list[list[int]] = []
        self.arrived = 0.0  # when the newest text came; of a copy nobody asks
        self._ended_at = 0.0
        self._news = Event()

    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def append(self, text: str) -> None:
        """Add text. Raises Lost where it could never be stored."""
        if self.ended:
            raise Lost
        self.arrived = time.monotonic()
        if self.first_token_ms is None:
            self.first_token_ms = self.elapsed_ms()
        if self.unstored_since is None:
            self.unstored_since = self.arrived
        self.text += text.encode()
        self.timeline.append([len(self.text), self.elapsed_ms()])
        if len(self.timeline) > TIMELINE_POINTS:
            del self.timeline[1:-1:2]  # every second one; the first and the last stay
        self.tell()

    def extend(self, start: int, text: str) -> None:
        """For a copy: what another worker has stored from byte `start` on. What is known already is passed over."""
        new = text.encode()[len(self.text) - start :]
        if start <= len(self.text) and new:
            self.text += new
            self.tell()

    def finish(self, ending: Ending) -> None:
        """End the answer. Readers learn of it when it is stored."""
        self.ending, self.duration_ms = ending, self.elapsed_ms()
        self._ended_at = time.monotonic()

    def settle(self, ending: Ending) -> None:
        """The ending is stored, by us or by whoever took the row from us."""
        self.ended = ending
        self.tell()

    def tell(self) -> None:
        news, self._news = self._news, Event()
        news.set()

    def wait(self, seconds: float) -> bool:
        """Wait for news. False if there was none."""
        return self._news.wait(seconds)

    def read(self, after: int) -> tuple[bytes, Ending | None]:
        """The next piece for a reader that has `after` bytes, empty if there is none, and how the answer ended, if it has.

        Text that could not be stored for `max_unstored_s` is held back until it is.
        """
        if self.ended:
            return self._piece(after, len(self.text)), self.ended
        if self.ending and time.monotonic() - self._ended_at > FINISH_WAIT_S:
            return b"", broken("storage")
        held_back = self.unstored_since is not None and time.monotonic() - self.unstored_since > self.max_unstored_s
        return self._piece(after, self.stored if held_back else len(self.text)), None

    def _piece(self, after: int, end: int) -> bytes:
        """The next piece, of whole characters."""
        cut = min(end, after + PIECE_BYTES)
        while cut < end and self.text[cut] & 0xC0 == 0x80:
            cut -= 1
        return bytes(self.text[after:cut])
