"""The model's server is not trusted: what is odd but within the protocol is understood, what is not does no harm."""
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Client
from tests.contract import assert_ends, is_problem
from tests.service import Service, one_database
from tests.steps import (
    Bytes,
    answer,
    byte_by_byte,
    chunk,
    close,
    comment,
    crlf,
    delta,
    done,
    drip,
    empty_choices,
    endless_line,
    event,
    finish,
    gzipped,
    joined,
    not_http,
    null_content,
    raw,
    reasoning,
    redirect,
    reset,
    role,
    split_at,
    status,
    usage,
)
from tests.upstream import Upstream

pytestmark = one_database

TEXT = "Zoë says 😀."
SURROGATE = b'data: {"choices":[{"index":0,"delta":{"content":"lone \\ud83d!"},"finish_reason":null}]}\n\n'
SMILE = delta("😀")
ANSWER: list[Any] = answer(*TEXT)


def with_line_ends(line_end: bytes, steps: list[Any]) -> list[Any]:
    return [Bytes(step.data.replace(b"\n", line_end)) for step in steps]


ODD: dict[str, tuple[list[Any], str]] = {
    "every byte on its own": (byte_by_byte(*ANSWER), TEXT),
    "CRLF": (crlf(*ANSWER), TEXT),
    "CRLF, every byte on its own": (byte_by_byte(*crlf(*ANSWER)), TEXT),
    "CR": (with_line_ends(b"\r", ANSWER), TEXT),
    "all in one piece": ([joined(*ANSWER)], TEXT),
    "comments": ([comment(), delta("a"), comment(), comment(""), raw(b":\n\n"), delta("b"), finish(), done()], "ab"),
    "null content": ([null_content(), delta("a"), null_content(), delta("b"), finish(), done()], "ab"),
    "no delta at all": ([event('{"choices":[{"index":0}]}'), delta("a"), finish(), done()], "a"),
    "empty text": ([delta(""), delta("a"), delta(""), finish(), done()], "a"),
    "empty choices": ([empty_choices(), delta("a"), empty_choices(), finish(), done()], "a"),
    "usage before the end": ([usage(), delta("a"), usage(), finish(), done()], "a"),
    "usage null": ([chunk({"content": "a"}, usage=None), finish(), usage(), done()], "a"),
    "reasoning first": ([reasoning("hm"), reasoning("so"), delta("a"), finish(), done()], "a"),
    "a character split over two reads": ([*split_at(SMILE.data.index("😀".encode()) + 2, SMILE), finish(), done()], "😀"),
    "BOM": ([raw(b"\xef\xbb\xbf"), *ANSWER], TEXT),
    "no space after the colon": ([Bytes(step.data.replace(b"data: ", b"data:")) for step in ANSWER], TEXT),
    "event, id and retry lines": ([raw(b"event: message\nid: 1\nretry: 10\n"), *ANSWER], TEXT),
    "data on several lines": ([raw(b'data: {"choices":\ndata: [{"index":0,"delta":\ndata: {"content":"a"}}]}\n\n'), done()], "a"),
    "text in the last chunk": ([delta("a"), chunk({"content": "b"}, "stop"), done()], "ab"),
    "nothing after finish_reason": ([delta("a"), finish()], "a"),
    "a reset after finish_reason": ([delta("a"), finish(), reset()], "a"),
    "cut after [DONE]": ([delta("a"), done(), close()], "a"),
    "text after [DONE]": ([delta("a"), finish(), done(), delta("b")], "a"),
    "unknown fields": ([chunk({"content": "a", "tool_calls": [], "refusal": None}, system_fingerprint="x"), done()], "a"),
    "counts that are none after finish_reason": ([delta("a"), finish(), event('{"usage": {"prompt_tokens": 5.5}}'), done()], "a"),
    "an error after finish_reason": ([delta("a"), finish(), event('{"error": {"message": "late"}}'), close()], "a"),
    "a second choice": ([delta("a"), event('{"choices":[{"index":1,"delta":{"content":"other"}}]}'), finish(), done()], "a"),
    "line separators of Unicode": ([delta("a\u2028b\u2029c\x85d"), finish(), done()], "a\u2028b\u2029c\x85d"),
    "a lone surrogate": ([raw(SURROGATE), finish(), done()], "lone \ufffd!"),
    "a delta of 100 kB": ([delta("x" * 100_000), finish(), done()], "x" * 100_000),
    "two thousand deltas": ([joined(*[delta("word ") for _ in range(2000)]), finish(), done()], "word " * 2000),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_understood(client: Client, upstream: Upstream, case: str) -> None:
    steps, text = ODD[case]
    assert_ends(client, upstream.script(*steps), None, text)


def test_a_finish_reason_that_no_database_takes_is_kept_as_far_as_it_can_be(client: Client, upstream: Upstream) -> None:
    odd = event('{"choices": [{"index": 0, "delta": {}, "finish_reason": "st\\u0000op\\ud800' + "x" * 300 + '"}]}')
    stream = client.stream_text(upstream.script(delta("a"), odd, done()).prompt)
    assert stream.text() == "a"
    assert client.history(stream.completion_id)["finish_reason"] == ("st\ufffdop\ufffd" + "x" * 300)[:200]


INVALID: dict[str, tuple[list[Any], str]] = {
    "a whole JSON answer instead of a stream": ([status(200, {"choices": [{"message": {"content": "hello"}}]})], ""),
    "a list": ([event("[1, 2]"), done()], ""),
    "a number": ([event("5"), done()], ""),
    "choices that are no list": ([event('{"choices": 5}'), done()], ""),
    "a choice that is no object": ([event('{"choices": [5]}'), done()], ""),
    "content that is no text": ([event('{"choices": [{"index": 0, "delta": {"content": {"a": 1}}}]}'), done()], ""),
    "deep nesting": ([event("[" * 100_000), done()], ""),
    "not UTF-8": ([delta("a"), raw(b'data: {"choices": "\xff\xfe\n\n'), done()], "a"),
    "no JSON midway": ([delta("a"), event("oops"), done()], "a"),
    "an endless line": ([delta("a"), endless_line()], "a"),
    "an endless first line": ([endless_line()], ""),
    "no HTTP": ([not_http()], ""),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_is_not_the_protocol_is_called_so(client: Client, upstream: Upstream, case: str) -> None:
    steps, text = INVALID[case]
    script = upstream.script(*steps)
    assert_ends(client, script, "upstream_invalid", text)
    if "endless" in case:
        script.call().wait_closed()


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(client: Client, upstream: Upstream, code: int) -> None:
    """Else the prompt and our key would be sent to wherever it points."""
    calls = len(upstream.calls)
    response = client.ask(upstream.script(redirect(f"{upstream.base_url}/stolen", code)).prompt)
    assert is_problem(response, 502)["error_type"] in ("upstream_error", "upstream_invalid")
    assert len(upstream.calls) == calls + 1


def test_a_gzip_bomb_does_not_explode(client: Client, upstream: Upstream) -> None:
    """We asked for identity; what is coded all the same is refused, not inflated."""
    script = upstream.script(gzipped(delta("x" * 50_000_000)))
    began = time.monotonic()
    assert is_problem(client.ask(script.prompt), 502)["error_type"] in ("upstream_invalid", "answer_too_long")
    assert time.monotonic() - began < 3


def test_the_error_of_the_model_says_why_without_its_insides(client: Client, upstream: Upstream) -> None:
    secret = "scripted-key"
    script = upstream.script(status(401, {"error": {"message": f"Incorrect API key provided: {secret}", "type": "auth"}}))
    problem = is_problem(client.ask(script.prompt), 502)
    assert secret not in json.dumps(problem)
    assert secret not in json.dumps(client.history(problem["completion_id"]))


def test_a_rate_limit_passes_on_when_to_come_back(client: Client, upstream: Upstream) -> None:
    response = client.ask(upstream.script(status(429, Retry_After="7")).prompt)
    is_problem(response, 429)
    assert response.headers["Retry-After"] == "7"


@pytest.mark.parametrize("said", ["-5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "9" * 30])
def test_a_nonsense_retry_after_is_not_passed_on(client: Client, upstream: Upstream, said: str) -> None:
    response = client.ask(upstream.script(status(429, Retry_After=said)).prompt)
    is_problem(response, 429)
    assert 1 <= int(response.headers["Retry-After"]) <= 3600


def test_a_first_event_that_drips_in_is_read(client: Client, upstream: Upstream) -> None:
    assert_ends(client, upstream.script(drip(delta("slow").data, 0.002), finish(), done()), None, "slow")


def test_a_server_that_does_not_take_the_connection_is_unreachable(start: Callable[..., Service], upstream: Upstream) -> None:
    """A listening socket whose queue is full drops what comes: connecting takes for ever."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        service = start(OPENAI_BASE_URL=url, LLMSTREAM_CONNECT_TIMEOUT_S=1, WEB_CONCURRENCY=1)
        script = upstream.script(role())
        began = time.monotonic()
        assert_ends(service.client, script, "upstream_unreachable", "")
        assert time.monotonic() - began < 8
        for sock in waiting:
            sock.close()


def test_the_environment_sends_the_prompt_to_no_proxy(start: Callable[..., Service], upstream: Upstream) -> None:
    script = upstream.script(*answer("straight"))
    proxy = "http://127.0.0.1:9"
    service = start(HTTP_PROXY=proxy, http_proxy=proxy, ALL_PROXY=proxy, WEB_CONCURRENCY=1)
    assert service.client.stream_text(script.prompt).text() == "straight"
