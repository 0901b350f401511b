"""How HTTP frames the body of the model's server is taken off rightly, wherever the reads fall."""
from typing import Any

import pytest

from tests.client import Client
from tests.contract import assert_ends
from tests.exchange import head
from tests.service import one_database
from tests.steps import answer, close, delta, headers, joined, pause, wire
from tests.upstream import Upstream

pytestmark = one_database
TEXT = "Zoë says 😀."
EVENTS = joined(*answer("Zoë", " says 😀.")).data  # type: ignore[arg-type]  # all of them are Bytes
STREAM = {"Content-Type": "text/event-stream"}


def chunked(data: bytes, size: int, line: str = "{:x}\r\n") -> bytes:
    """The data in chunks of this size, whose size lines look like `line`."""
    pieces = [data[i:i + size] for i in range(0, len(data), size)]
    return b"".join(line.format(len(piece)).encode() + piece + b"\r\n" for piece in pieces)


def in_pieces(data: bytes, size: int) -> list[Any]:
    return [[wire(data[i:i + size]), pause(0.001)] for i in range(0, len(data), size)]


WHOLE: dict[str, list[Any]] = {
    "one chunk": [headers(), wire(chunked(EVENTS, 10**6) + b"0\r\n\r\n")],
    "chunks of one byte in one segment": [headers(), wire(chunked(EVENTS, 1) + b"0\r\n\r\n")],
    "chunks of seven bytes, segments of eleven": [headers(), in_pieces(chunked(EVENTS, 7) + b"0\r\n\r\n", 11)],
    "chunks of 300 bytes, segments of two": [headers(), in_pieces(chunked(EVENTS, 300) + b"0\r\n\r\n", 2)],
    "head and body in one segment": [
        wire(head(200, STREAM | {"Transfer-Encoding": "chunked"}) + chunked(EVENTS, 50) + b"0\r\n\r\n")],
    "capital hex, leading zeros, extensions": [headers(), wire(chunked(EVENTS, 43, '000{:X};name="value"\r\n') + b"0\r\n\r\n")],
    "trailers": [headers(), wire(chunked(EVENTS, 100) + b"0\r\nX-Sum: 5\r\n\r\n")],
    "a length instead of chunks": [wire(head(200, STREAM | {"Content-Length": str(len(EVENTS))}) + EVENTS)],
    "a length, in small segments": [wire(head(200, STREAM | {"Content-Length": str(len(EVENTS))})), in_pieces(EVENTS, 33)],
    "neither, until the connection is closed": [wire(head(200, STREAM | {"Connection": "close"}) + EVENTS), close()],
    "HTTP/1.0": [wire(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENTS), close()],
    "an interim response first": [wire(b"HTTP/1.1 100 Continue\r\n\r\n"), wire(head(200, STREAM) + EVENTS), close()],
    "more bytes after the last chunk": [headers(), wire(chunked(EVENTS, 100) + b"0\r\n\r\nGARBAGE"), close()],
}


@pytest.mark.parametrize("case", WHOLE)
def test_each_framing_gives_the_whole_answer(client: Client, upstream: Upstream, case: str) -> None:
    assert_ends(client, upstream.script(*WHOLE[case]), None, TEXT)


SOME = delta("as far as this")
BROKEN: dict[str, tuple[list[Any], str]] = {
    "a size that is no number": ([headers(), SOME, wire(b"zz\r\nhello\r\n")], "upstream_invalid"),
    "a negative size": ([headers(), SOME, wire(b"-5\r\nhello\r\n")], "upstream_invalid"),
    "a size with an underscore": ([headers(), SOME, wire(b"1_0\r\n" + b"x" * 16 + b"\r\n")], "upstream_invalid"),
    "a size line that never ends": ([headers(), SOME, wire(b"5;" + b"x" * 100_000)], "upstream_invalid"),
    "the end within a size": ([headers(), SOME, wire(b"1"), close()], "upstream_cut"),
    "the end within a chunk": ([headers(), SOME, wire(b"40\r\ndata: "), close()], "upstream_cut"),
    "the end within a length": ([wire(head(200, STREAM | {"Content-Length": "9999"}) + SOME.data), close()], "upstream_cut"),
    "the end of a length": ([wire(head(200, STREAM | {"Content-Length": str(len(SOME.data))}) + SOME.data)], "upstream_cut"),
    "a clean last chunk": ([headers(), SOME, wire(b"0\r\n\r\n")], "upstream_cut"),
    "closed where the length was open": ([wire(head(200, STREAM) + SOME.data), close()], "upstream_cut"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_framing_keeps_the_text_before_it(client: Client, upstream: Upstream, case: str) -> None:
    steps, error_type = BROKEN[case]
    assert_ends(client, upstream.script(*steps), error_type, "as far as this")
