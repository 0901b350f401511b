"""Workers that die, are replaced, are told to end, or stand still and wake up again, under load."""
import os
import signal
import socket
import threading
import time
from contextlib import suppress

import pysqlite3
import sqlalchemy as sa

from tests.client import eventually
from tests.faults.harness import RECOVERED_S, Model, Result, Run, all_over, stopped
from tests.faults.observer import Seen
from tests.faults.oracle import check
from tests.service import Database, Service

CROWDED = dict(tokens=24, every_ms=50, think_ms=50)


def worker_killed(run: Run) -> Result:
    """SIGKILL of random workers, about one a second."""
    result = Result("worker killed")
    with run.steady() as (service, model):
        if run.long:  # who is to see that a worker is gone must live for 7 s; in the short pass one is spared for that
            run.start(service.database, OPENAI_BASE_URL=model.base_url, WEB_CONCURRENCY=1)
        for streams, kills, enough in run.pick([(60, 4, 0)], [(60, 600, 6000), (300, 400, 4000)]):
            under_kills(run, result, service, model, streams, kills, enough)
    return result


def under_kills(run: Run, result: Result, service: Service, model: Model, streams: int, kills: int, enough: int) -> None:
    """So many kills under so many streams, and on until enough streams have ended cleanly."""
    crowd = run.crowd(service, clients=streams, **CROWDED)
    eventually(lambda: next(crowd.seen(), None), 20, "the first whole answer")
    idle = [pid for pid in service.workers() if pid not in busy(service)]
    spared = None if run.long else (busy(service) + idle)[-1]
    give_up = time.monotonic() + run.pick(30, 3600)
    with Coroner(the(service)) as coroner:
        while time.monotonic() < give_up and (len(coroner.killed) < kills or crowd.ended_cleanly() < enough):
            victims = [pid for pid in (service.workers() if run.long else busy(service)) if pid != spared]
            if victims:
                coroner.kill(run.random.choice(victims))
            time.sleep(run.random.uniform(0.4, 1.2))
        seens = crowd.leave()
        all_over(the(service), RECOVERED_S + 5)
    result.rounds += len(coroner.killed)
    result.recovered(max(coroner.recoveries.values(), default=0.0))
    result.add(check(service, seens, killed=coroner.killed, calls=model.asked()))
    result.expect(result.cut and len(coroner.killed) >= kills, f"{len(coroner.killed)} kills cut {result.cut} answers: too few")
    result.worst("streams at a time", streams)


def busy(service: Service) -> list[int]:
    """Its workers that write an answer now, the busiest first."""
    rows = the(service).rows("SELECT worker_id AS id FROM completions WHERE status = 'in_progress' GROUP BY worker_id "
                             "ORDER BY count(*) DESC")
    known = [int(row["id"].split(":")[-1]) for row in rows]
    return [pid for pid in known if pid in service.workers()]


class Coroner:
    """Kills workers, and watches how long each of them has answers that are in_progress."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.killed: dict[str, float] = {}
        self.recoveries: dict[str, float] = {}  # seconds from the kill until none of its answers was in_progress
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def __enter__(self) -> "Coroner":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def kill(self, pid: int) -> None:
        name = f"{socket.gethostname()}:{pid}"
        at = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed[name] = at

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            with suppress(sa.exc.DBAPIError):
                rows = self.database.rows("SELECT DISTINCT worker_id AS id FROM completions WHERE status = 'in_progress'")
                for row in rows:
                    if row["id"] in self.killed:
                        self.recoveries[row["id"]] = time.monotonic() - self.killed[row["id"]]


def deploy(run: Run) -> Result:
    """The service is reloaded, or told to end and started again, while people use it."""
    result, model = Result("deploy"), run.model()
    service = run.start(OPENAI_BASE_URL=model.base_url)
    reloads(run, result, service, model, run.pick(1, 80))
    for patient in run.pick([False], ([False] * 4 + [True]) * 4):
        service = ended(run, result, service, model, patient)
    return result


def reloads(run: Run, result: Result, service: Service, model: Model, times: int) -> None:
    """SIGHUP: new workers take over, the old ones finish what they have begun, and nobody is turned away."""
    crowd = run.crowd(service, clients=20, **CROWDED)
    eventually(lambda: next(crowd.seen(), None), 20, "the first whole answer")
    for _ in range(times):
        before = set(service.workers())
        os.kill(service.process.pid, signal.SIGHUP)
        eventually(lambda before=before: not before & set(service.workers()), 40, "the end of the old workers")
    seens = list(crowd.leave())
    for seen in seens:
        result.expect(seen.succeeded, f"HUP: {seen.prompt} ended {seen.ended}, {seen.status}, {seen.end}")
    all_over(the(service))
    result.rounds += times
    result.add(check(service, seens, calls=model.asked()))


def ended(run: Run, result: Result, service: Service, model: Model, patient: bool) -> Service:
    """SIGTERM: what ends within the grace ends whole; the rest is finalised before the service is gone.

    :param patient: have answers, too, that last longer than the grace
    """
    database, newest = the(service), newest_of(service)
    crowd = run.crowd(service, clients=20, **CROWDED)
    longer = run.crowd(service, clients=6, tokens=800 if patient else 60, every_ms=50, asks=1, spread_ms=0)
    eventually(lambda: next(crowd.seen(), None), 20, "the first whole answer")
    os.kill(service.process.pid, signal.SIGTERM)
    service.process.wait(40)
    left = database.rows("SELECT id, status, error_type FROM completions WHERE id > :newest AND "
                         "(status = 'in_progress' OR error_type = 'worker_lost')", newest=newest)
    result.expect(not left, f"TERM: {len(left)} answers were not finalised: {left[:3]}")
    service.stop()
    seens, long_ones = list(crowd.leave()), list(longer.leave())
    for seen in seens if patient else [*seens, *long_ones]:
        ok = seen.succeeded or seen.ended == "unreached"
        result.expect(ok, f"TERM: {seen.prompt} ended {seen.ended}, {seen.status}, {seen.end}, in the grace")
    again = run.start(database, OPENAI_BASE_URL=model.base_url)
    for seen in long_ones if patient else []:
        row = database.completion(seen.completion_id or 0)
        result.expect(row["error_type"] == "shutdown", f"TERM: an answer beyond the grace is {row['status']}/{row['error_type']}")
    result.rounds += 1
    result.add(check(again, seens + long_ones, calls=model.asked()))
    return again


def zombie(run: Run) -> Result:
    """A worker stands still until it is given up for dead and its answers are taken from it; then it wakes up."""
    result = Result("zombie")
    with run.steady() as (service, model):
        for _ in range(run.pick(1, 50)):
            one_zombie(run, result, service, model)
    return result


def one_zombie(run: Run, result: Result, service: Service, model: Model) -> None:
    database, workers = the(service), service.workers()
    crowd = run.crowd(service, clients=30, **CROWDED)
    running = run.crowd(service, clients=16, tokens=250, every_ms=50, asks=1, spread_ms=0)
    eventually(lambda: database.value("SELECT count(DISTINCT completion_id) FROM chunks") > 16, 20, "texts")
    pid = run.random.choice(workers)
    its = {"its": f"{socket.gethostname()}:{pid}"}
    stop_between_commits(pid, database)
    with stopped(pid):
        began = time.monotonic()
        eventually(lambda: not database.value(
            "SELECT count(*) FROM completions WHERE status = 'in_progress' AND worker_id = :its", **its), 20, "its recovery")
        result.recovered(time.monotonic() - began)
        finished = "SELECT id, status, response, reason FROM completions WHERE status <> 'in_progress' AND worker_id = :its"
        before = {row["id"]: row for row in database.rows(finished, **its)}
    taken = sum(row["status"] == "incomplete" for row in before.values())
    result.expect(taken, "nothing was taken from the worker, so nothing was tried")
    seens: list[Seen] = [*crowd.leave(), *running.leave()]
    all_over(database)
    after = {row["id"]: row for row in database.rows(finished, **its)}
    for completion_id, row in before.items():
        if row != after[completion_id]:
            result.wrong += 1
            result.breaches.append(f"completion {completion_id} was overwritten: {row} became {after[completion_id]}")
    result.expect(service.workers() == workers, "a worker was replaced")
    result.rounds += 1
    result.add(check(service, seens, calls=model.asked()))


def stop_between_commits(pid: int, database: Database) -> None:
    """SIGSTOP at a moment in which the worker does not hold SQLite's write lock: that would be the fault `database_held`."""
    for _ in range(40):
        os.kill(pid, signal.SIGSTOP)
        if database.kind != "sqlite" or can_write(database):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.03)
    raise AssertionError("the worker held the lock whenever it was stopped")


def can_write(database: Database) -> bool:
    connection = pysqlite3.connect(sa.make_url(database.url).database, timeout=1, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return True
    except pysqlite3.OperationalError:
        return False
    finally:
        connection.close()


def newest_of(service: Service) -> int:
    """The id of the newest completion."""
    return the(service).value("SELECT max(id) FROM completions") or 0


def the(service: Service) -> Database:
    assert service.database
    return service.database
