"""Nothing is lost: killed workers, locked databases, refused rows."""
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import sqlalchemy as sa

from llmstream.extensions import engine_options
from tests.client import eventually
from tests.contract import endings, is_problem, refusal, row_is
from tests.exchange import Gate
from tests.service import Database, Service, one_database
from tests.steps import answer, delta, done, finish, held, role, typing, wait_for
from tests.upstream import Upstream

Launch = Callable[..., Service]
LAG_S = 0.5  # what a test allows for "50 ms plus one commit" on a busy machine


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """Hold off all writes from outside, as a backup or a long migration does; reading stays possible."""
    with database.engine.connect() as connection:
        if database.kind == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE conversations, completions, chunks, workers IN EXCLUSIVE MODE")
        yield
        connection.rollback()


@pytest.mark.alone
def test_text_that_was_seen_is_stored_a_moment_later(service: Service, database: Database, upstream: Upstream) -> None:
    gates = [Gate() for _ in range(5)]
    deltas = [[wait_for(gate), delta(f"word{i} ")] for i, gate in enumerate(gates)]
    gates[0].open()
    stream = service.client.stream_text(upstream.script(deltas, wait_for(last := Gate()), finish(), done()).prompt)
    for i, gate in enumerate(gates):
        gate.open()
        stream.read_until(f"word{i} ")
        eventually(lambda: database.stored_text(stream.completion_id) == stream.received.decode(), LAG_S, "storing")
    assert database.completion(stream.completion_id)["status"] == "in_progress"
    last.open()
    stream.text()


def test_who_saw_more_than_a_killed_worker_could_store_is_told_how_it_ended(start: Launch, upstream: Upstream) -> None:
    dead = start(WEB_CONCURRENCY=1)
    alive = start(dead.database, WEB_CONCURRENCY=1)
    stream = dead.client.stream_text(upstream.script(delta("so far"), wait_for(gate := Gate()), finish(), done()).prompt)
    stream.read_until("so far")
    eventually(lambda: dead.database and dead.database.stored_text(stream.completion_id) == "so far", LAG_S, "storing")
    dead.kill()
    with ThreadPoolExecutor(2) as pool:  # at once, before anybody knows that the worker is dead
        events = pool.submit(lambda: alive.client.reattach_events(stream.completion_id, 9).end())
        text = pool.submit(alive.client.reattach, stream.completion_id, 9)
        assert events.result().data["error_type"] == "worker_lost"
        assert is_problem(text.result(), 503)["error_type"] == "worker_lost"
    assert alive.client.reattach_events(stream.completion_id, headers={"Last-Event-ID": "9"}).end().name == "incomplete"
    gate.open()


def test_a_killed_machine_loses_no_more_than_the_last_moment(start: Launch, upstream: Upstream) -> None:
    """Shown text is at most 50 ms and one commit ahead of stored text. Within 15 s another instance says what happened."""
    dead = start(WEB_CONCURRENCY=1)
    alive = start(dead.database, WEB_CONCURRENCY=1)
    words = [f"word{i} " for i in range(400)]
    gate = Gate()
    running = alive.client.stream_text(upstream.script(delta("mine"), wait_for(gate), finish(), done()).prompt)
    complete = dead.client.stream_text("Hello")
    complete.text()
    stream = dead.client.stream_text(upstream.script(*typing(*words, every=0.005)).prompt)
    follower = alive.client.reattach_events(stream.completion_id)
    arrivals: list[tuple[float, int]] = []
    while len(stream.received) < 2000:
        stream.more()
        arrivals.append((time.monotonic(), len(stream.received)))
    killed = time.monotonic()
    dead.kill()
    seen = stream.rest().decode()
    assert stream.cut
    end = follower.end()
    assert (end.name, end.data["error_type"]) == ("incomplete", "worker_lost")
    assert time.monotonic() - killed < 15
    row = alive.client.history(stream.completion_id)
    assert "".join(words).startswith(row["response"]) and follower.deltas() == row["response"]
    assert len(row["response"]) >= max(size for at, size in arrivals if at < killed - LAG_S)
    print(f"{len(seen)} bytes were seen, {len(row['response'])} kept")
    row_is(alive.client, stream.completion_id, endings()["worker_lost"], row["response"])
    again = alive.client.reattach_text(stream.completion_id)
    assert again.rest().decode() == row["response"]
    assert again.cut
    assert alive.client.history(complete.completion_id)["status"] == "completed"
    gate.open()
    assert running.text() == "mine", "an answer whose worker lives is left alone"
    following = upstream.script(*answer("goes on"))
    assert alive.client.stream_text(following.prompt, conversation_id=stream.conversation_id).text() == "goes on"
    assert [message["role"] for message in following.call().messages] == ["user", "assistant", "user"]


@one_database
def test_a_stopped_service_says_so(start: Launch, upstream: Upstream) -> None:
    """Ctrl-C does not wait long: what still runs is stored as incomplete, and its reader is cut."""
    service = start()
    stream = service.client.stream_text(upstream.script(delta("as far as this"), wait_for(Gate())).prompt)
    events = service.client.reattach_events(stream.completion_id)
    stream.read_until("this")
    events.until("delta")
    service.process.send_signal(signal.SIGINT)
    assert stream.rest() == b"as far as this"
    assert stream.cut
    service.process.wait(10)
    assert service.database
    row = service.database.completion(stream.completion_id)
    assert (row["status"], row["error_type"], row["response"]) == ("incomplete", "shutdown", "as far as this")


@one_database
def test_a_service_that_is_told_to_end_lets_answers_end_first(start: Launch, upstream: Upstream) -> None:
    service = start()
    script = upstream.script(*held(gate := Gate(), "first ", "last"))
    stream = service.client.stream_text(script.prompt)
    stream.read_until("first ")
    service.process.terminate()
    with pytest.raises(AssertionError):
        script.call().wait_closed(2)
    gate.open()
    assert stream.text() == "first last"
    service.process.wait(10)
    assert service.database and service.database.completion(stream.completion_id)["status"] == "completed"


@pytest.mark.alone
def test_a_locked_database_slows_nobody(service: Service, database: Database, upstream: Upstream) -> None:
    """Another process holds the write lock for 2 s: streams flow on, pages answer, and nothing is lost."""
    words = [f"word{i} " for i in range(150)]
    ticking = service.client.stream_text(upstream.script(*typing(*words, every=0.02)).prompt)
    waiting = upstream.script(*answer("after ", "the lock"))
    gaps, pages = [0.0], [0.0]

    def read_all() -> str:
        last = time.monotonic()
        while ticking.more():
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
        return ticking.received.decode()

    with ThreadPoolExecutor(3) as pool:
        ticking.read_until("word5 ")
        reading = pool.submit(read_all)
        with locked(database):
            began = time.monotonic()
            late = pool.submit(service.client.stream_text, waiting.prompt)
            while time.monotonic() - began < 2:
                asked = time.monotonic()
                assert service.client.get("/static/none").status_code == 404
                assert service.client.get("/history?limit=1").status_code == 200
                pages.append((time.monotonic() - asked) / 2)
        assert late.result().text() == "after the lock"
        assert reading.result() == "".join(words)
    assert not ticking.cut
    print(f"worst gap of a stream {max(gaps):.3f} s, slowest page {max(pages):.3f} s")
    assert max(gaps) < 0.25
    assert max(pages) < 0.25
    row = database.completion(ticking.completion_id)
    assert (row["status"], row["response"]) == ("completed", "".join(words))


def test_a_prompt_that_cannot_be_stored_is_refused_and_the_model_never_asked(
        service: Service, database: Database, upstream: Upstream) -> None:
    scripts = [upstream.script(*answer("never")) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool, locked(database):
        began = time.monotonic()
        asking = [pool.submit(service.client.ask, script.prompt, accept="text/event-stream" if i % 2 else "text/plain")
                  for i, script in enumerate(scripts)]
        for response in asking:
            is_problem(response.result(), refusal("The prompt could not be stored"))
        assert 2.5 < time.monotonic() - began < 4.5
    assert service.client.stream_text("Hello").text()

    def left() -> list[dict[str, str]]:
        return [row for script in scripts for row in database.rows(
            "SELECT status, error_type, response FROM completions WHERE prompt = :prompt", prompt=script.prompt)]
    not_started = {"status": "failed", "error_type": "not_started", "response": ""}
    eventually(lambda: all(row == not_started for row in left()), 2, "the ends of those that landed too late")
    assert not any(script.calls for script in scripts)


def test_text_that_cannot_be_stored_is_held_back_after_a_while_and_then_comes_whole(start: Launch, upstream: Upstream) -> None:
    service = start(LLMSTREAM_MAX_UNSTORED_S=1, WEB_CONCURRENCY=1)
    assert service.database
    words = [f"word{i} " for i in range(100)]
    stream = service.client.stream_text(upstream.script(*typing(*words, every=0.03)).prompt)
    stream.read_until("word3 ")
    arrivals: list[float] = []

    def read() -> None:
        while stream.more():
            arrivals.append(time.monotonic() - locked_at)

    with ThreadPoolExecutor(1) as pool, locked(service.database):
        locked_at = time.monotonic()
        reading = pool.submit(read)
        time.sleep(2.5)
        during = list(arrivals)
    reading.result()
    assert 0.8 < max(during) < 2, "the stream goes on for about a second, then waits"
    assert stream.text() == "".join(words)
    assert service.client.history(stream.completion_id)["response"] == "".join(words)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_database_that_only_reads_for_a_moment_ends_no_answer(start: Launch, upstream: Upstream) -> None:
    """As while another PostgreSQL takes over: writes are refused, but not because of what they hold."""
    service = start(WEB_CONCURRENCY=1)
    assert service.database
    database, gate = service.database, Gate()
    stream = service.client.stream_text(upstream.script(*held(gate, "before ", "after")).prompt)
    stream.read_until("before")
    let_write(database, reads_only=True)
    gate.open()
    assert service.client.ask("meanwhile").status_code == 503
    let_write(database, reads_only=False)
    assert stream.text() == "before after"
    row = service.client.history(stream.completion_id)
    assert (row["status"], row["response"]) == ("completed", "before after")


def let_write(database: Database, reads_only: bool) -> None:
    """For all connections that there are and will be."""
    name = database.value("SELECT current_database()")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {'on' if reads_only else 'off'}")
        connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'llmstream'")


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_worker_that_stands_still_amid_its_statements_keeps_no_row_from_others(new_database: Callable[[], Database]) -> None:
    """PostgreSQL's timeout for idle transactions does not count while it waits for the rest of a pipeline."""
    url = new_database().url.replace("postgresql:", "postgresql+psycopg:")
    engine = sa.create_engine(url, **engine_options(url))
    with engine.connect() as frozen, engine.connect() as other:
        other.exec_driver_sql("CREATE TABLE a (b int)")
        other.exec_driver_sql("INSERT INTO a VALUES (1)")
        other.commit()
        wire = frozen.connection.driver_connection.pgconn  # type: ignore[union-attr]
        wire.enter_pipeline_mode()
        for statement in (b"BEGIN", b"UPDATE a SET b = 2"):
            wire.send_query_params(statement, None)
        wire.send_flush_request()
        wire.flush()
        eventually(lambda: other.exec_driver_sql("SELECT 1 FROM pg_locks WHERE relation = 'a'::regclass").all(), 2, "its lock")

        def is_free() -> bool:
            with suppress(sa.exc.OperationalError):
                other.exec_driver_sql("UPDATE a SET b = 3")
                return True
            other.rollback()
            return False
        eventually(is_free, 10, "the end of what stands still")
        frozen.invalidate()
    engine.dispose()


REFUSE_POISON = {
    "sqlite": [
        "CREATE TRIGGER no_poison_chunk BEFORE INSERT ON chunks WHEN NEW.text LIKE '%poison%' "
        "BEGIN SELECT RAISE(ABORT, 'no poison'); END",
        "CREATE TRIGGER no_poison BEFORE UPDATE ON completions WHEN NEW.response LIKE '%poison%' "
        "BEGIN SELECT RAISE(ABORT, 'no poison'); END"],
    "postgresql": [
        "ALTER TABLE chunks ADD CONSTRAINT no_poison_chunk CHECK (text NOT LIKE '%poison%')",
        "ALTER TABLE completions ADD CONSTRAINT no_poison CHECK (response NOT LIKE '%poison%')"],
}


def test_an_answer_that_the_database_refuses_does_not_stop_the_others(start: Launch, upstream: Upstream) -> None:
    service = start(WEB_CONCURRENCY=1)
    assert service.database
    for statement in REFUSE_POISON[service.database.kind]:
        service.database.execute(statement)
    gate = Gate()
    healthy = [service.client.stream_text(upstream.script(*held(gate, f"{i} is ", "well")).prompt)
               for i in range(5)]
    events = service.client.stream_events(upstream.script(role(), delta("good, "), wait_for(poison := Gate()), delta("poison, "),
                                                          wait_for(Gate())).prompt)
    events.until("delta")
    eventually(lambda: service.database.stored_text(events.completion_id) == "good, ", 2, "storing")  # type: ignore[union-attr]
    poison.open()
    end = events.end()
    assert (end.name, end.data["error_type"]) == ("failed", "storage_rejected")
    row_is(service.client, events.completion_id, endings()["storage_rejected"], "good, ")
    gate.open()
    assert [stream.text() for stream in healthy] == [f"{i} is well" for i in range(5)]
