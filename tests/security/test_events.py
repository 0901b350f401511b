"""The parser of event streams: wherever it is split, a stream gives the same events, and no more is held than the limit."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from llmstream.sse import Parser, TooLong

LIMIT = 200
PARTS = st.sampled_from(
    [
        b"data: ",
        b"data",
        b"event: x",
        b"id: 1",
        b"id: \0",
        b":",
        b": ping",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\xef\xbb\xbf",
        "é😀".encode(),
        b"\xff",
        b"\xf0\x9f",
        "\u2028".encode(),
        b"\x85",
        b"x" * 99,
        b"retry: 5",
    ]
)
STREAMS = st.lists(PARTS | st.binary(max_size=20), max_size=40).map(b"".join)


def read(pieces: list[bytes]) -> tuple[list[tuple[str, ...]], bool]:
    parser, events = Parser(LIMIT), []
    for piece in pieces:
        events += parser.feed(piece)
        assert sum(map(len, parser._line)) + sum(map(len, parser._data)) <= LIMIT
    try:
        parser.check()
    except TooLong:
        return events, True
    return events, False


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(STREAMS, st.lists(st.integers(0, 700), max_size=30))
def test_any_split_of_any_bytes_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    whole = read([stream])
    assert read(pieces) == whole
    assert read([stream[i : i + 1] for i in range(len(stream))]) == whole
