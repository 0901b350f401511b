"""Every way in which an answer can end, as the table of docs/api.md says, before the first text and after some."""
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.client import Client
from tests.contract import assert_ends, endings
from tests.service import ROOT, Service
from tests.steps import (
    answer,
    close,
    context_error,
    delta,
    done,
    error_midway,
    finish,
    headers,
    html,
    joined,
    pause,
    raw,
    reset,
    role,
    silence,
    status,
    typing,
)
from tests.upstream import Upstream

SO_FAR = "So far: naïve 😀, "


@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter"])
def test_a_finish_reason_completes(client: Client, upstream: Upstream, finish_reason: str) -> None:
    script = upstream.script(role(), delta("Hel"), delta("lo"), finish(finish_reason), done())
    assert assert_ends(client, script, None, "Hello")["finish_reason"] == finish_reason


def test_done_alone_completes(client: Client, upstream: Upstream) -> None:
    assert assert_ends(client, upstream.script(delta("Hello"), done()), None, "Hello")["finish_reason"] is None


def test_an_empty_answer_completes(client: Client, upstream: Upstream) -> None:
    assert_ends(client, upstream.script(role(), finish(), done()), None, "")


FAILURES = {
    "refused our key": ([status(401)], "upstream_auth", ""),
    "forbade it": ([status(403)], "upstream_auth", ""),
    "limited us": ([status(429)], "upstream_rate_limited", ""),
    "limited us for a time": ([status(429, Retry_After="7")], "upstream_rate_limited", ""),
    "the context is full": ([context_error()], "context_length_exceeded", ""),
    "500": ([status(500)], "upstream_error", ""),
    "503": ([status(503)], "upstream_error", ""),
    "404": ([status(404)], "upstream_error", ""),
    "400": ([status(400)], "upstream_error", ""),
    "500 in HTML": ([html(500)], "upstream_error", ""),
    "error object first": ([error_midway()], "upstream_error", ""),
    "error object midway": ([delta(SO_FAR), error_midway(), done()], "upstream_error", SO_FAR),
    "error object in the same_read as text": ([joined(delta(SO_FAR), error_midway(), done())], "upstream_error", SO_FAR),
    "HTML with 200": ([html()], "upstream_invalid", ""),
    "no JSON in the events": ([raw(b"data: {oops\n\n"), done()], "upstream_invalid", ""),
    "no JSON midway": ([delta(SO_FAR), raw(b"data: {oops\n\n"), done()], "upstream_invalid", SO_FAR),
    "no JSON in the same_read as text": ([joined(delta(SO_FAR), raw(b"data: {oops\n\n"))], "upstream_invalid", SO_FAR),
    "closed before the head": ([close()], "upstream_cut", ""),
    "reset before the head": ([reset()], "upstream_cut", ""),
    "closed after the head": ([headers(), close()], "upstream_cut", ""),
    "closed midway": ([delta(SO_FAR), close()], "upstream_cut", SO_FAR),
    "reset midway": ([delta(SO_FAR), pause(0.1), reset()], "upstream_cut", SO_FAR),
    "a clean end of HTTP without finish_reason and [DONE]": ([delta(SO_FAR)], "upstream_cut", SO_FAR),
    "nothing at all, cleanly": ([headers()], "upstream_cut", ""),
}


@pytest.mark.parametrize("case", FAILURES)
def test_the_upstream_fails(client: Client, upstream: Upstream, case: str) -> None:
    steps, error_type, text = FAILURES[case]
    assert_ends(client, upstream.script(*steps), error_type, text)


def test_the_upstream_refuses_connections(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("never"))
    with upstream.refusing():
        assert_ends(client, script, "upstream_unreachable", "")
    assert not script.calls


@pytest.fixture(scope="module")
def impatient(launch: Callable[..., Service]) -> Iterator[Client]:
    """A service with short limits."""
    service = launch(WEB_CONCURRENCY=1, LLMSTREAM_FIRST_TOKEN_TIMEOUT_S=1, LLMSTREAM_IDLE_TIMEOUT_S=1,
                     LLMSTREAM_TOTAL_TIMEOUT_S=2, LLMSTREAM_MAX_ANSWER_BYTES=20000)
    yield service.client
    service.stop()


SLOW: dict[str, tuple[list[Any], str]] = {
    "no head": ([silence()], ""),
    "a head and no text": ([headers(), role(), silence()], ""),
    "one byte a while and no text": ([raw(b": "), *[[pause(0.3), raw(b"x")] for _ in range(20)]], ""),
    "a pause in the middle": ([delta(SO_FAR), silence()], SO_FAR),
    "one byte a while in the middle": ([delta(SO_FAR), raw(b": "), *[[pause(0.3), raw(b"x")] for _ in range(20)]], SO_FAR),
}


TOO_LONG = dict.fromkeys(SLOW, "Nothing more of it came for 1 s.") | dict.fromkeys(
    ("no head", "one byte a while and no text"), "Nothing of an answer came within 1 s.")


def test_the_upstream_is_too_slow(impatient: Client, upstream: Upstream) -> None:
    """All at once, since each takes its time."""
    def ends(case: str) -> str:
        steps, text = SLOW[case]
        script = upstream.script(*steps)
        try:
            row = assert_ends(impatient, script, "upstream_timeout", text)
            assert row["reason"] == f"The model's server took too long. {TOO_LONG[case]}"
            script.call(1).wait_closed()
        except AssertionError as error:
            return f"{case}: {error}"
        return ""

    with ThreadPoolExecutor(len(SLOW)) as pool:
        assert not [fault for fault in pool.map(ends, SLOW) if fault]


def test_an_answer_that_takes_too_long_as_a_whole_keeps_its_text(impatient: Client, upstream: Upstream) -> None:
    stream = impatient.stream_text(upstream.script(*typing(*["tick "] * 30, every=0.15)).prompt)
    seen = stream.rest().decode()
    assert stream.cut
    row = impatient.finished(stream.completion_id)
    assert (row["error_type"], row["response"]) == ("upstream_timeout", seen)
    assert 1500 < row["duration_ms"] < 4000
    assert row["reason"] == "The model's server took too long. A whole answer may take 2 s."


def test_an_answer_that_grows_beyond_the_limit_keeps_what_fitted(impatient: Client, upstream: Upstream) -> None:
    script = upstream.script(*[delta("x" * 1500) for _ in range(30)], finish(), done())
    stream = impatient.stream_text(script.prompt)
    seen = stream.rest().decode()
    assert stream.cut
    row = impatient.finished(stream.completion_id)
    assert (row["status"], row["error_type"], row["response"]) == ("failed", "answer_too_long", seen)
    assert 15000 <= len(seen) <= 20000
    script.call().wait_closed()


ELSEWHERE = {  # what no upstream can provoke
    "cancelled": "test_stop.py",
    "context_length_exceeded": "test_conversation.py",
    "worker_lost": "test_keeping.py",
    "shutdown": "test_keeping.py",
    "not_started": "test_keeping.py",
    "storage_rejected": "test_keeping.py",
    "storage": "test_recorder.py",
    "internal_error": "test_recorder.py",
    "model_restarting": "start/test_life.py",
    "revoked": "test_revocation.py",
}


def test_each_row_of_the_table_is_provoked_by_some_test() -> None:
    here = {"upstream_unreachable", "upstream_timeout", "answer_too_long"} | {failure[1] for failure in FAILURES.values()}
    assert set(endings()) - {None} == here | set(ELSEWHERE)
    for error_type, file in ELSEWHERE.items():
        assert f'"{error_type}"' in (ROOT / "tests" / file).read_text(), f"{file} does not speak of {error_type}"
