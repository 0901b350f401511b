"""The database is held, full, stopped, frozen in a commit, or has something against one row."""
import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.client import eventually
from tests.faults.harness import RECOVERED_S, Missing, Model, NotApplicable, Result, Run, all_over, control, postgres, stopped
from tests.faults.kills import newest_of, the
from tests.faults.middle import Middle
from tests.faults.numbered import prompt, tag_of
from tests.faults.observer import Seen, observe
from tests.faults.oracle import check
from tests.service import Database, Service

FLOWS_S = 5.0  # LLMSTREAM_MAX_UNSTORED_S as shipped: text flows on for so long without a commit
BEGIN_S = 3.0  # docs/api.md: "The prompt could not be stored within 3 s"
RESUMES_S = 1.0  # commits go on so soon after the database is back
GAP_MS = 50.0  # no request waits longer for a worker's hub
CROWD = 16
INDEXED = {"sqlite": "SELECT id FROM completions_fts_docsize", "postgresql": "SELECT completion_id FROM completions_fts"}
UNFOUND = {kind: f"SELECT count(*) FROM completions WHERE status <> 'in_progress' AND id NOT IN ({indexed})"
           for kind, indexed in INDEXED.items()}
Fault = Callable[[], Any]  # gives a context manager: meanwhile the database takes no writes


def database_held(run: Run) -> Result:
    """Another process keeps SQLite's write lock, or every table of PostgreSQL, for some seconds."""
    result = Result("database held")
    with run.steady() as (service, model):
        for hold_s in run.pick([8], [3, 30] * 5):
            outage(run, result, service, model, hold_s, lambda: held(the(service)))
    return result


@contextmanager
def held(database: Database) -> Iterator[None]:
    """No write from outside gets through; reading stays possible."""
    with database.engine.connect() as connection:
        if database.kind == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE conversations, completions, chunks, workers IN EXCLUSIVE MODE")
        yield
        connection.rollback()


def outage(run: Run, result: Result, service: Service, model: Model, seconds: float, fault: Fault,
           *, readable: bool = True) -> None:
    """One round: answers run, no write gets through for so long, and afterwards nothing of them is lost.

    Some answers outlast the fault, some end in the midst of it.
    """
    database, workers, newest = the(service), service.workers(), newest_of(service)
    running = run.crowd(service, clients=CROWD, tokens=round((seconds + 3) * 20), every_ms=50, asks=1, spread_ms=200)
    ending = run.crowd(service, clients=CROWD // 2, tokens=60, every_ms=50, asks=1, spread_ms=200)
    eventually(lambda: database.value("SELECT count(DISTINCT completion_id) FROM chunks") == CROWD * 3 // 2, 20, "all texts")
    with run.probe(service) as probe, ThreadPoolExecutor(3) as pool:
        with fault():
            began = time.monotonic()
            late = [pool.submit(refused, service) for _ in range(3)]
            if readable:
                sleep_until(began + seconds / 2)
                result.expect(service.client.get("/history?limit=1").status_code == 200, "history could not be read")
            sleep_until(began + seconds)
            worst_ms, own_ms = probe.worst()
            releasing = time.monotonic()
        freed = time.monotonic()
        result.recovered(resumption(database, freed), RESUMES_S)
        refusals = [future.result() for future in late]
    result.expect(own_ms < GAP_MS, f"a request waited {own_ms} ms for a worker ({worst_ms} ms with the waits for a core)")
    result.worst("gap ms", own_ms)
    for status, after_s in refusals if seconds > BEGIN_S + 0.5 else []:
        result.expect(status == 503 and after_s < BEGIN_S + 1.2, f"a prompt not stored got {status} after {after_s:.1f} s")
    seens = list(running.leave())
    for seen in seens:
        result.expect(seen.succeeded, f"completion {seen.completion_id} did not end cleanly: {seen.ended}, {seen.end}")
        if seconds > FLOWS_S + 1.5:
            flowed = max((at - began for at, _ in seen.arrivals if began <= at < releasing), default=0.0)
            result.expect(FLOWS_S - 0.7 < flowed < FLOWS_S + 0.7, f"{seen.completion_id}: text flowed on for {flowed:.1f} s")
    seens += ending.leave()
    check_untouched(result, service, workers, newest)
    result.rounds += 1
    result.add(check(service, seens, calls=model.asked()))
    eventually(lambda: not database.value(UNFOUND[database.kind]), 15, "the search index has all that ended meanwhile")


def check_untouched(result: Result, service: Service, workers: list[int], newest: int) -> None:
    """No worker was replaced or given up, and no answer that is newer than `newest` was taken from one that lives."""
    all_over(the(service))
    result.expect(service.workers() == workers, "a worker was replaced")
    known = {int(row["id"].split(":")[-1]) for row in the(service).rows("SELECT id FROM workers")}
    result.expect(known >= set(workers), f"a live worker was given up: {workers} are alive, {known} are known")
    lost = the(service).value("SELECT count(*) FROM completions WHERE error_type = 'worker_lost' AND id > :newest", newest=newest)
    result.expect(not lost, f"{lost} live rows were recovered by mistake")


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def refused(service: Service) -> tuple[int, float]:
    """Send a prompt: the status of the answer, and after how many seconds it came."""
    began = time.monotonic()
    response = service.client.call("POST", "/stream", json={"prompt": prompt(2, 1)}, timeout=60)
    return response.status_code, time.monotonic() - began


def resumption(database: Database, freed: float) -> float:
    """Wait until text is stored again, or all of it has been; how many seconds after `freed`."""
    seen: list[Any] = []

    def resumed() -> bool:
        with suppress(sa.exc.DBAPIError):
            seen.append(database.rows("SELECT count(*) AS chunks, sum(start) AS bytes FROM chunks"))
            return seen[-1] != seen[0] or not database.value("SELECT count(*) FROM completions WHERE status = 'in_progress'")
        return False
    eventually(resumed, 30, "the next commit")
    return time.monotonic() - freed


def disk_full(run: Run) -> Result:
    """The file system that holds the tables has no space left."""
    result = Result("disk full")
    model = run.model()
    with small_disk(run.folder / "disk", 24 if run.kind == "sqlite" else 32) as disk:
        if run.kind == "postgresql":
            server = run.own_postgres()
            subprocess.run(["chown", server.system_user or str(os.getuid()), str(disk)], check=True)
            with Database(server.get_uri()).engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{disk}'")
            database = run.new_database(server=server, options="TABLESPACE small")
        else:
            database = run.new_database(disk)
        service = run.start(database, OPENAI_BASE_URL=model.base_url)
        for full_s in run.pick([3], [10] * 10):
            one_full(run, result, service, model, disk, full_s)
        service.stop()
    return result


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Path]:
    """A file system of its own. Raises Missing where mounting is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        raise Missing(f"a small file system cannot be mounted here ({mounted.stderr.strip()})")
    try:
        for parent in (folder, *folder.parents[:3]):
            parent.chmod(0o755)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Leave no byte of it free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        filler.unlink()


def one_full(run: Run, result: Result, service: Service, model: Model, disk: Path, seconds: float) -> None:
    database, workers, newest = the(service), service.workers(), newest_of(service)
    crowd = run.crowd(service, clients=CROWD, tokens=30, every_ms=50, spread_ms=500)
    eventually(lambda: database.value("SELECT count(DISTINCT completion_id) FROM chunks") >= CROWD // 2, 20, "texts")
    with run.probe(service) as probe, filled(disk):
        sleep_until(time.monotonic() + seconds)
        result.expect(service.client.get("/history?limit=1").status_code == 200, "history could not be read")
        worst_ms, own_ms = probe.worst()
    result.recovered(resumption(database, time.monotonic()), RESUMES_S)
    result.expect(own_ms < GAP_MS, f"a request waited {own_ms} ms for a worker ({worst_ms} ms with the waits for a core)")
    result.worst("gap ms", own_ms)
    seens = list(crowd.leave())
    result.worst("refused", sum(seen.status == 503 for seen in seens))
    check_untouched(result, service, workers, newest)
    result.rounds += 1
    result.add(check(service, seens, calls=model.asked()))


def postgresql_stopped(run: Run) -> Result:
    """The server is stopped in each way that it can be, or frozen as a whole, and comes back."""
    result = Result("PostgreSQL stopped")
    if run.kind == "sqlite":
        raise NotApplicable
    model, server = run.model(), run.own_postgres()
    service = run.start(run.new_database(server=server), OPENAI_BASE_URL=model.base_url)
    ways = {"fast": lambda: down(server, "fast"), "immediate": lambda: down(server, "immediate"),
            "restart": lambda: restarted(server), "frozen": lambda: stopped(*processes(server))}
    rounds = run.pick([("immediate", 2), ("frozen", 7)], [("fast", 10), ("immediate", 10), ("restart", 0), ("frozen", 30)] * 5)
    for way, seconds in rounds:
        outage(run, result, service, model, seconds, ways[way], readable=False)
    return result


@contextmanager
def down(server: Any, mode: str) -> Iterator[None]:
    control(server, "stop", "-m", mode)
    try:
        yield
    finally:
        control(server, "start", "-l", str(server.log), "-o", f"-h '' -k {server.get_postmaster_info().socket_dir}")


@contextmanager
def restarted(server: Any) -> Iterator[None]:
    with down(server, "fast"):
        pass
    yield


def processes(server: Any) -> list[int]:
    """The postmaster and all that it has started."""
    postmaster = int((server.pgdata / "postmaster.pid").read_text().split()[0])
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(postmaster)], capture_output=True, text=True, check=True)
    return [postmaster, *map(int, listed.stdout.split())]


# with "(", else the commit of the search index, completions_fts, is taken for a begin now and then
UNCERTAIN = {"begin": "INSERT INTO completions (", "append": "INSERT INTO chunks", "finish": "DELETE FROM chunks"}


def uncertain_commit(run: Run) -> Result:
    """A backend is frozen that has been told to commit, until the service gives up; then the commit lands after all."""
    result = Result("uncertain commit")
    if run.kind == "sqlite":
        raise NotApplicable
    with Middle(postgres(), run.folder) as middle:
        direct = run.new_database()
        service = run.start(middle.database(direct))
        service.database = direct
        for _ in range(run.pick(1, 25)):
            workers, newest, seens = service.workers(), newest_of(service), []
            others = run.crowd(service, clients=6, tokens=400, every_ms=50, asks=1, spread_ms=0)
            eventually(lambda: direct.value("SELECT count(DISTINCT completion_id) FROM chunks") == 6, 20, "texts")
            for step in UNCERTAIN:
                seens.append(one_uncertain(run, result, service, middle, step))
            seens += others.leave()
            for seen in seens[1:]:
                result.expect(seen.succeeded, f"{seen.prompt} was cut by mistake: {seen.ended}, {seen.end}")
            result.recovered(all_over(direct))
            check_untouched(result, service, workers, newest)
            result.add(check(service, seens[1:], calls=run.upstream.asked))
    return result


def one_uncertain(run: Run, result: Result, service: Service, middle: Middle, step: str) -> Seen:
    one = Seen(prompt(40, 50))
    observing = threading.Thread(target=observe, args=(one, service.url))
    caught = middle.catch(UNCERTAIN[step]) if step == "begin" else None
    observing.start()
    if caught is None:
        eventually(lambda: one.text, 20, "the first text")
        caught = middle.catch(UNCERTAIN[step])
    caught.wait()
    gave_up = caught.given_up.wait(15)
    caught.release()
    result.expect(gave_up, f"{step}: the service waits for a frozen commit for more than 15 s")
    observing.join()
    result.rounds += 1
    if step == "begin":
        result.expect(one.status == 503, f"{step}: the prompt got {one.status}")
        find = "SELECT id FROM completions WHERE prompt = :prompt"
        landed = eventually(lambda: the(service).rows(find, prompt=one.prompt), 5, "the landing of the frozen commit")
        result.expect(len(landed) == 1, f"{step}: it landed {len(landed)} times")
        result.expect(not run.upstream.asked.get(tag_of(one.prompt) or ""), f"{step}: the model was asked")
    return one


REFUSE = {
    "sqlite": [
        "CREATE TRIGGER poisoned_chunk BEFORE INSERT ON chunks WHEN NEW.text LIKE '%poison1%·3 %' "
        "BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        "CREATE TRIGGER poisoned_finish BEFORE UPDATE ON completions WHEN NEW.response LIKE '%poison2%·3 %' "
        "BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        "CREATE TRIGGER poisoned_begin BEFORE INSERT ON completions WHEN NEW.prompt LIKE '%poison3%' "
        "BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
        "CREATE TRIGGER poisoned_note BEFORE UPDATE ON completions WHEN NEW.client_name = 'poison4' AND NEW.delivery IS NOT NULL "
        "BEGIN SELECT RAISE(ABORT, 'poisoned'); END"],
    "postgresql": [
        "ALTER TABLE chunks ADD CONSTRAINT poisoned_chunk CHECK (text NOT LIKE '%poison1%·3 %')",
        "ALTER TABLE completions ADD CONSTRAINT poisoned_finish CHECK (response NOT LIKE '%poison2%·3 %')",
        "ALTER TABLE completions ADD CONSTRAINT poisoned_begin CHECK (prompt NOT LIKE '%poison3%')",
        "ALTER TABLE completions ADD CONSTRAINT poisoned_note CHECK (client_name <> 'poison4' OR delivery IS NULL)"],
}


def poisoned_row(run: Run) -> Result:
    """The database has something against one answer: its text, its end, its prompt, or a note about it."""
    result = Result("poisoned row")
    with run.steady() as (service, model):
        for statement in REFUSE[run.kind]:
            the(service).execute(statement)
        for _ in range(run.pick(1, 25)):
            one_poisoned(run, result, service, model)
    return result


def one_poisoned(run: Run, result: Result, service: Service, model: Model) -> None:
    workers, newest = service.workers(), newest_of(service)
    others = run.crowd(service, clients=10, tokens=60, every_ms=50, asks=1, spread_ms=0)
    eventually(lambda: the(service).value("SELECT count(DISTINCT completion_id) FROM chunks") == 10, 20, "texts")
    bad = [Seen(poisoned(f"poison{i}", 6), events=True) for i in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(observe, bad, [service.url] * 3))
    assert service.client.ask(prompt(2, 1), headers={"User-Agent": "poison4"}).text
    seens = list(others.leave())
    for seen in bad[:2]:
        result.expect((seen.end or {}).get("error_type") == "storage_rejected", f"{seen.prompt} ended with {seen.end}")
    result.expect(bad[2].status in (500, 503), f"a prompt that the database refuses got {bad[2].status}")
    result.recovered(all_over(the(service)))
    eventually(lambda: not the(service).value("SELECT count(*) FROM completions WHERE id > :newest AND delivery IS NULL AND "
                                              "client_name <> 'poison4'", newest=newest), 2, "the notes of all others")
    for seen in seens:
        result.expect(seen.succeeded, f"completion {seen.completion_id} suffered for another: {seen.ended}, {seen.end}")
    check_untouched(result, service, workers, newest)
    poisoned_orphan(run, result, service, model)
    result.rounds += 1
    result.add(check(service, [*seens, *bad[:2]], calls=model.asked()))


def poisoned(name: str, tokens: int) -> str:
    """A prompt whose answer the database refuses from its fourth token on, in the way of this name."""
    return prompt(tokens, 150, f"{name}-{secrets.token_hex(4)}")


def poisoned_orphan(run: Run, result: Result, service: Service, model: Model) -> None:
    """An answer whose pieces are stored, and whose whole is refused, loses its worker; the other orphans do not wait for it."""
    database, bad = the(service), Seen(poisoned("poison2", 100))
    others = run.crowd(service, clients=10, tokens=160, every_ms=50, asks=1, spread_ms=0)
    observing = threading.Thread(target=observe, args=(bad, service.url))
    observing.start()
    eventually(lambda: "·3 " in database.stored_text(bad.completion_id or 0) if bad.completion_id else False, 10, "its pieces")
    its = {"its": database.completion(bad.completion_id or 0)["worker_id"]}
    os.kill(int(its["its"].split(":")[1]), signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: not database.value("SELECT count(*) FROM completions WHERE status = 'in_progress' AND worker_id = :its",
                                          **its), RECOVERED_S + 5, "the end of all that the worker has left")
    result.recovered(time.monotonic() - killed)
    observing.join()
    row = database.completion(bad.completion_id or 0)
    result.expect((row["status"], row["error_type"]) == ("failed", "storage_rejected"),
                  f"the refused orphan is stored as {row['status']}/{row['error_type']}")
    seens = [bad, *others.leave()]
    all_over(database)
    result.add(check(service, seens, calls=model.asked()))
