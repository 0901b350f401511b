"""The recorder alone, on a database that fails: commits of unknown outcome, outages, rows that another one took over."""
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError

from llmstream import accounts, extensions, judgements
from llmstream.config import load
from llmstream.endings import completed
from llmstream.extensions import db, engine_options, transact
from llmstream.generation import Generation
from llmstream.heartbeat import PART, Heartbeat
from llmstream.limits import Limits
from llmstream.models import now
from llmstream.provider import Delta
from llmstream.recorder import NotStored, Recorder
from llmstream.transcript import Lost, Transcript

ROW: dict[str, Any] = {
    "conversation_id": None, "owner": "local", "source": "api", "prompt": "Hello", "parameters": {}, "request_model": "m",
    "provider_name": "p", "body_hash": "h"}
assert accounts and judgements  # their tables belong to the schema


class Commits:
    """What is to happen at the next commits: "fails" loses it, "lands" keeps it and says that it failed."""

    def __init__(self) -> None:
        self.next: list[str] = []
        self.away = False


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    commits, commit = Commits(), extensions.OffHubConnection.commit

    def commit_or_not(connection: Any) -> None:
        happens = commits.next.pop(0) if commits.next else ""
        if commits.away or happens == "fails":
            raise extensions.sqlite.OperationalError("disk I/O error")
        commit(connection)
        if happens == "lands":
            raise extensions.sqlite.OperationalError("disk I/O error")

    monkeypatch.setattr(extensions.OffHubConnection, "commit", commit_or_not)
    return commits


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'alone.db'}"
    engine = create_engine(url, **engine_options(url))
    db.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def recorder(engine: Engine) -> Recorder:
    return Recorder(engine, Limits(1000, 1000, 10**12))


def begin(recorder: Recorder, key: str = "key") -> Transcript:
    return recorder.begin(ROW | {"idempotency_key": key, "created_at": now()})


def rows(engine: Engine, query: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query)).mappings()]


def until(look: Callable[[], Any], within: float = 4.0) -> None:
    end = time.monotonic() + within
    while not look():
        assert time.monotonic() < end, "it did not happen"
        gevent.sleep(0.01)


def stored(transcript: Transcript) -> bool:
    return transcript.stored == len(transcript.text)


def test_a_begin_of_unknown_outcome_makes_one_row(recorder: Recorder, engine: Engine, commits: Commits) -> None:
    commits.next = ["lands", "fails", "lands"]
    transcript = begin(recorder)
    assert rows(engine, "SELECT id, status, prompt FROM completions") == [
        {"id": transcript.id, "status": "in_progress", "prompt": "Hello"}]
    assert len(rows(engine, "SELECT id FROM conversations")) == 1


def test_text_of_unknown_outcome_is_stored_once(recorder: Recorder, engine: Engine, commits: Commits) -> None:
    transcript = begin(recorder)
    for word in ("one ", "two 😀 ", "three "):
        commits.next = ["lands", "fails", "lands"]
        recorder.append(transcript, word)
        gevent.sleep(0.1)
        recorder.append(transcript, "and ")  # comes while the outcome is unknown
        until(lambda: stored(transcript))
    chunks = rows(engine, "SELECT start, text FROM chunks ORDER BY start")
    assert "".join(chunk["text"] for chunk in chunks) == "one and two 😀 and three and "
    starts = [chunk["start"] for chunk in chunks]
    assert starts == [len("".join(chunk["text"] for chunk in chunks[:i]).encode()) for i in range(len(chunks))]


def test_an_ending_of_unknown_outcome_is_shown_as_it_was_stored(
        recorder: Recorder, engine: Engine, commits: Commits) -> None:
    transcript = begin(recorder)
    recorder.append(transcript, "all of it")
    commits.next = ["lands"]
    recorder.finish(transcript, completed("stop"))
    assert transcript.ended is None, "nobody sees an end that is not stored"
    until(lambda: transcript.ended)
    assert transcript.ended and transcript.ended.status == "completed"
    assert rows(engine, "SELECT status, response, finish_reason FROM completions") == [
        {"status": "completed", "response": "all of it", "finish_reason": "stop"}]
    assert rows(engine, "SELECT * FROM chunks") == []


def test_what_comes_during_an_outage_is_kept_and_stored_after_it(recorder: Recorder, engine: Engine, commits: Commits) -> None:
    transcript = begin(recorder)
    commits.away = True
    for i in range(20):
        recorder.append(transcript, f"word{i} ")
        gevent.sleep(0.02)
    recorder.finish(transcript, completed("stop"))
    gevent.sleep(0.3)
    assert transcript.ended is None and rows(engine, "SELECT * FROM chunks") == []
    commits.away = False
    until(lambda: transcript.ended)
    (row,) = rows(engine, "SELECT status, response FROM completions")
    assert row == {"status": "completed", "response": "".join(f"word{i} " for i in range(20))}


def test_a_begin_during_an_outage_is_given_up_after_three_seconds(recorder: Recorder, engine: Engine, commits: Commits) -> None:
    commits.away = True
    began = time.monotonic()
    with pytest.raises(NotStored):
        begin(recorder)
    assert 2.5 < time.monotonic() - began < 4
    commits.away = False
    begin(recorder, "another")
    gevent.sleep(0.5)
    left = rows(engine, "SELECT status, error_type FROM completions WHERE idempotency_key = 'key'")
    assert left in ([], [{"status": "failed", "error_type": "not_started"}])


def test_a_begin_that_landed_though_it_was_given_up_is_called_not_started(
        recorder: Recorder, engine: Engine, commits: Commits) -> None:
    """By the recorder where it learns of it, else by the sweep of the heartbeat."""
    heartbeat = Heartbeat(engine, recorder)
    commits.next = ["fails"] * 100
    giving_up = gevent.spawn(begin, recorder)
    gevent.sleep(2.9)
    commits.next = ["lands"] + ["fails"] * 2  # it lands in the last moment, but is known only later
    with pytest.raises(NotStored):
        giving_up.get()
    commits.next = []
    heartbeat.start()
    until(lambda: [row for row in rows(engine, "SELECT status FROM completions") if row["status"] != "in_progress"]
          or not rows(engine, "SELECT status FROM completions"), within=20)
    left = rows(engine, "SELECT status, error_type, response FROM completions")
    heartbeat.stop()
    assert left in ([], [{"status": "failed", "error_type": "not_started", "response": ""}])


def test_a_begin_that_is_stored_as_its_time_is_up_is_no_refusal(
        recorder: Recorder, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy hub the limit of a wait is over before whoever waits is told that it was in time."""
    monkeypatch.setattr("llmstream.recorder.BEGIN_S", 0.3)
    tell = recorder._answer

    def tell_slowly(transcript: Transcript, error: Exception | None) -> None:
        tell(transcript, error)
        time.sleep(0.005)  # the whole hub stands still, as with hundreds of prompts at once

    monkeypatch.setattr(recorder, "_answer", tell_slowly)
    begins = [gevent.spawn(begin, recorder, f"key {i}") for i in range(150)]
    gevent.joinall(begins)
    told = {begun.value for begun in begins if begun.value}
    given_up = [t for t in recorder.live.values() if t not in told and not t.ending]
    assert told and not given_up, "what is live and was refused has an ending"


def test_who_is_gone_when_the_begin_is_stored_leaves_nothing_in_progress(recorder: Recorder, engine: Engine) -> None:
    tell = recorder._answer

    def kill(transcript: Transcript, error: Exception | None) -> None:
        asking.kill(block=False)
        tell(transcript, error)

    recorder._answer = kill  # type: ignore[method-assign]
    asking = gevent.spawn(begin, recorder)
    until(lambda: [row["error_type"] for row in rows(engine, "SELECT error_type FROM completions")] == ["not_started"])


def test_orphans_are_ended_a_part_at_a_time_and_what_is_done_stays_done(
        recorder: Recorder, engine: Engine, commits: Commits) -> None:
    lost = Recorder(engine, recorder.limits)
    lost.me = ("gone", 1)
    for transcript in [begin(lost, f"key {i}") for i in range(PART + 5)]:
        lost.append(transcript, "so far")
    until(lambda: all(map(stored, lost.live.values())))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM workers"))
    commits.next = ["", "", "fails"]
    with pytest.raises(OperationalError):
        Heartbeat(engine, recorder).beat()
    left = "SELECT count(*) AS n FROM completions WHERE status = 'in_progress'"
    assert rows(engine, left) == [{"n": 5}]
    Heartbeat(engine, recorder).beat()
    assert rows(engine, left) == [{"n": 0}]
    assert rows(engine, "SELECT DISTINCT response FROM completions") == [{"response": "so far"}]


def test_an_ending_that_never_came_to_be_stored_is_not_told_as_never_begun(
        recorder: Recorder, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstream.heartbeat.SWEEP_AFTER_S", 0)
    transcript = begin(recorder)
    recorder.append(transcript, "this much")
    until(lambda: stored(transcript))
    del recorder.live[transcript.id or 0]
    Heartbeat(engine, recorder).beat()
    assert rows(engine, "SELECT error_type, response FROM completions") == [
        {"error_type": "storage_rejected", "response": "this much"}]


def test_a_row_that_another_one_ended_is_not_written_again(recorder: Recorder, engine: Engine, commits: Commits) -> None:
    """A worker that was given up for dead and comes back changes nothing, and says so."""
    transcript = begin(recorder)
    recorder.append(transcript, "mine ")
    until(lambda: stored(transcript))
    with engine.begin() as connection:
        connection.execute(text("UPDATE completions SET status = 'incomplete', error_type = 'worker_lost', "
                                "reason = 'Recovered.', response = 'mine '"))
        connection.execute(text("DELETE FROM chunks"))
    recorder.append(transcript, "too late")
    until(lambda: transcript.ended)
    assert transcript.ended and (transcript.ended.status, transcript.ended.error_type) == ("incomplete", "worker_lost")
    assert rows(engine, "SELECT status, response FROM completions") == [{"status": "incomplete", "response": "mine "}]
    assert rows(engine, "SELECT * FROM chunks") == []


def test_one_outage_hurts_no_other_answer(recorder: Recorder, engine: Engine, commits: Commits) -> None:
    transcripts = [begin(recorder, f"key {i}") for i in range(10)]
    for round_ in range(5):
        commits.next = ["fails", "lands"]
        for i, transcript in enumerate(transcripts):
            recorder.append(transcript, f"{i}.{round_} ")
        gevent.sleep(0.05)
    for transcript in transcripts:
        recorder.finish(transcript, completed("stop"))
    until(lambda: all(transcript.ended for transcript in transcripts))
    texts = [row["response"] for row in rows(engine, "SELECT response FROM completions ORDER BY id")]
    assert texts == ["".join(f"{i}.{round_} " for round_ in range(5)) for i in range(10)]


def test_an_answer_that_cannot_be_stored_for_too_long_ends_as_that(
        recorder: Recorder, engine: Engine, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: beyond a limit of unstored text the model is not read, and after a time the answer is given up."""
    monkeypatch.setattr("llmstream.recorder.MAX_UNSTORED_BYTES", 1000)
    monkeypatch.setattr("llmstream.recorder.STORE_WAIT_S", 0.5)
    transcript = begin(recorder)
    commits.away = True
    recorder.append(transcript, "x" * 900)
    began = time.monotonic()
    with pytest.raises(Lost):
        recorder.append(transcript, "y" * 900)
    assert 0.4 < time.monotonic() - began < 2
    assert transcript.ended is None
    commits.away = False
    until(lambda: transcript.ended)
    (row,) = rows(engine, "SELECT status, error_type, response FROM completions")
    assert row == {"status": "incomplete", "error_type": "storage", "response": "x" * 900 + "y" * 900}


def test_an_answer_that_outruns_the_database_waits_for_it(
        recorder: Recorder, engine: Engine, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstream.recorder.MAX_UNSTORED_BYTES", 1000)
    transcript = begin(recorder)
    for _ in range(50):
        recorder.append(transcript, "x" * 900)
        assert len(transcript.text) - transcript.stored <= 1900
    recorder.finish(transcript, completed("stop"))
    until(lambda: transcript.ended)
    assert rows(engine, "SELECT status, length(response) AS size FROM completions") == [{"status": "completed", "size": 45_000}]


def test_a_fault_of_ours_ends_the_answer_and_says_so(
        engine: Engine, commits: Commits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An exception that nobody foresaw ends the recording too, with the text so far: no row stays in progress for ever."""
    def stream(*_: Any) -> Iterator[Delta]:
        yield Delta("as far as this")
        raise ZeroDivisionError

    monkeypatch.setattr("llmstream.generation.stream", stream)
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "m"}
    generation = Generation(engine, load(settings))
    row = ROW | {"idempotency_key": "key", "created_at": now()}
    transcript = generation.start(row, [{"role": "user", "content": "Hello"}], {})
    until(lambda: transcript.ended)
    assert rows(engine, "SELECT status, error_type, response FROM completions") == [
        {"status": "incomplete", "error_type": "internal_error", "response": "as far as this"}]
    generation.heartbeat.stop()


def test_a_begin_that_is_under_way_at_the_stop_is_ended_as_that(engine: Engine, commits: Commits, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.db", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "m"}
    generation = Generation(engine, load(settings))
    commits.away = True
    asking = gevent.spawn(begin, generation.recorder)
    draining = gevent.spawn(generation.drain, 0.3)
    gevent.sleep(0.6)
    commits.away = False
    gevent.joinall([asking, draining], timeout=5, raise_error=True)
    assert rows(engine, "SELECT error_type FROM completions") == [{"error_type": "shutdown"}]


def test_a_heartbeat_ends_though_an_error_takes_the_place_of_its_end(
        engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when SQLAlchemy looks whether a connection of PostgreSQL still lives: its clean-up fails after any exception."""
    def beat() -> None:
        try:
            gevent.sleep(60)
        finally:
            raise RuntimeError("cannot clean up now")

    heartbeat = Heartbeat(engine, recorder)
    monkeypatch.setattr(heartbeat, "beat", beat)
    heartbeat.start()
    gevent.sleep(0.1)
    began = time.monotonic()
    heartbeat.stop()
    assert heartbeat._greenlet is not None and heartbeat._greenlet.dead and time.monotonic() - began < 3


def test_a_visit_with_nothing_to_store_leaves_the_database_to_others(engine: Engine) -> None:
    with engine.connect() as ours, engine.connect() as another:
        transact(ours, lambda connection: None)
        assert transact(another, lambda connection: connection.execute(text("DELETE FROM workers")).rowcount) == 0
