"""How long to wait for an HTTP/1.1 response, and its body as it arrives: all that is there with one read of the socket.

http.client gives one chunk a call, which is one token; under load that costs more than everything else together
(docs/decisions/0011-reading-what-has-arrived.md). So the framing of RFC 9112, 7.1, is taken off here.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
import requests

READ_BYTES = 65536
LONGEST_SIZE_LINE = 1024
AFTER_FINISH_S = 2.0  # how long the token counts may come behind the finish_reason


class Patience:
    """How long the next wait may be: until the first token, then from each event to the next, and never beyond the total."""

    def __init__(self, first_token_s: float, idle_s: float, total_s: float) -> None:
        self._idle_s, self._total_s = idle_s, total_s
        self._wait = f"Nothing of an answer came within {first_token_s:g} s."
        self._end = time.monotonic() + total_s
        self._next = time.monotonic() + first_token_s
        self.finished = False

    def seconds(self) -> float:
        """Raises TimeoutError where there is no time left."""
        left = min(self._next, self._end) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @property
    def reason(self) -> str:
        """Which of the limits is met, in words."""
        return f"A whole answer may take {self._total_s:g} s." if self._end <= self._next else self._wait

    def limit(self) -> gevent.Timeout:
        return gevent.Timeout(self.seconds())  # not an OSError: urllib3 would take that for a broken connection

    def renew(self, finished: bool) -> None:
        self.finished = self.finished or finished
        self._wait = f"Nothing more of it came for {self._idle_s:g} s."
        self._next = time.monotonic() + (AFTER_FINISH_S if self.finished else self._idle_s)


class Malformed(ValueError):
    """The framing is not HTTP's."""


class Body:
    def __init__(self, response: requests.Response) -> None:
        original: Any = response.raw._original_response
        self._chunked = bool(original.chunked)
        # fp holds what came together with the headers; `original` reads from it, too, and stops where a Content-Length says so
        self._source = original.fp if self._chunked else original
        self._socket = original.fp and original.fp.raw._sock
        self._waiting = bytearray()
        self._left = 0  # bytes of the present chunk that are still to come, with its closing CRLF
        self._ended = original.fp is None  # an empty body
        self._malformed = False

    def read(self, seconds: float) -> bytes | None:
        """What has arrived, waiting up to `seconds` for something; b"" where it was framing only, None at the end.

        Raises TimeoutError, OSError, and Malformed at the call after the last good bytes.
        """
        if self._malformed:
            raise Malformed("a chunk whose size is no number")
        if self._ended:
            return None
        self._socket.settimeout(seconds)
        received = self._source.read1(READ_BYTES)
        if not received:
            return None
        return self._unframe(received) if self._chunked else received

    def _unframe(self, received: bytes) -> bytes:
        self._waiting += received
        pieces = []
        while self._waiting and not (self._ended or self._malformed):
            if not self._left and not self._next_chunk():
                break
            piece = bytes(self._waiting[: self._left])
            del self._waiting[: len(piece)]
            pieces.append(piece[: max(0, self._left - 2)])
            self._left -= len(piece)
        return b"".join(pieces)

    def _next_chunk(self) -> bool:
        """Take the line that says how long the next chunk is. False if it is not whole yet, or was the last."""
        end = self._waiting.find(b"\r\n")
        if end < 0:
            self._malformed = len(self._waiting) > LONGEST_SIZE_LINE
            return False
        size = bytes(self._waiting[:end]).partition(b";")[0].strip()
        del self._waiting[: end + 2]
        self._malformed = not size or len(size) > 15 or bool(size.strip(b"0123456789abcdefABCDEF"))
        if self._malformed:
            return False
        self._ended = not int(size, 16)
        self._left = int(size, 16) + 2
        return not self._ended
