"""The parser of event streams alone: it gives the same events however the bytes are split."""
import random

import pytest

from llmstream.sse import PING, Event, Parser, TooLong, encode

STREAM = ("\ufeff: a comment\n"
          "data: first\n\n"
          "event: delta\r\nid: 7\r\ndata: {\"text\": \"naïve 😀\"}\r\n\r\n"
          "data: two\rdata: lines\r\r"
          "data:no space\n\n"
          "data:  two spaces\n\n"
          "data\n\n"
          "event: without data\n\n"
          ":\n: ping\n\n"
          "retry: 10\nunknown: field\ndata: with\u2028separators\u2029and\x85such\n\n"
          "data: never ended").encode()
EVENTS = [
    Event("message", "first", ""),
    Event("delta", '{"text": "naïve 😀"}', "7"),
    Event("message", "two\nlines", ""),
    Event("message", "no space", ""),
    Event("message", " two spaces", ""),
    Event("message", "", ""),
    Event("message", "with\u2028separators\u2029and\x85such", ""),
]


def parsed(pieces: list[bytes]) -> list[Event]:
    parser = Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


def test_all_at_once() -> None:
    assert parsed([STREAM]) == EVENTS


def test_every_byte_on_its_own() -> None:
    assert parsed([STREAM[i:i + 1] for i in range(len(STREAM))]) == EVENTS


def test_split_once_anywhere() -> None:
    for at in range(len(STREAM) + 1):
        assert parsed([STREAM[:at], STREAM[at:]]) == EVENTS, f"split at {at}"


@pytest.mark.parametrize("seed", range(50))
def test_split_at_random_with_empty_reads(seed: int) -> None:
    chance = random.Random(seed)
    cuts = sorted(chance.choices(range(len(STREAM) + 1), k=chance.randint(1, 60)))
    pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
    assert parsed(pieces) == EVENTS


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_each_line_end_gives_the_same(line_end: bytes) -> None:
    stream = line_end.join([b"event: a", b"data: 1", b"data: 2", b"", b": c", b"data: 3", b"", b""])
    for at in range(len(stream)):
        assert parsed([stream[:at], stream[at:]]) == [Event("a", "1\n2", ""), Event("message", "3", "")]


def test_an_event_is_given_as_soon_as_it_is_complete() -> None:
    parser = Parser()
    assert parser.feed(b"data: now\r\r") == [Event("message", "now", "")]
    assert parser.feed(b"\ndata: next\n\n") == [Event("message", "next", "")]


def test_an_event_that_never_ends_is_refused_early() -> None:
    for piece in (b"x" * 1000, b"data: x\n" * 100, b"x: y\n" * 100):
        parser = Parser(limit=10_000)
        with pytest.raises(TooLong):
            for _ in range(100):
                parser.feed(piece)
                parser.check()


def test_many_small_events_and_comments_are_no_long_one() -> None:
    parser = Parser(limit=1000)
    assert len([event for _ in range(1000) for event in parser.feed(b": ping\n\ndata: x\n\n")]) == 1000
    for _ in range(1000):
        assert parser.feed(b": ping\n") == []


def test_bytes_that_are_no_utf8_do_not_raise() -> None:
    (event,) = parsed([b"data: \xff\xfe\n\n"])
    assert event.data == "\ufffd\ufffd"


def test_what_is_encoded_is_parsed_back() -> None:
    encoded = [encode("created", '{"a":1}'), PING, encode("delta", '{"text":"\u2028\\n😀"}', 12), encode("completed", "{}", 0)]
    assert parsed(encoded) == [
        Event("created", '{"a":1}', ""), Event("delta", '{"text":"\u2028\\n😀"}', "12"), Event("completed", "{}", "0")]
