"""Two hundred streams for ten minutes: nothing grows, and not one answer is lost."""
import os
import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import requests
from sqlalchemy.engine import make_url

from tests.client import eventually
from tests.faults.harness import NotApplicable, Result, Run, all_over
from tests.faults.oracle import check
from tests.faults.pair import quit_at_once
from tests.faults.wire import Wires
from tests.service import Service

STREAMS = 200
MIB = 2**20
MORE_MEMORY = 8 * MIB  # of one worker, over the whole time: what a heap that is cut into pieces may take
MORE_FILES = 40  # visitors, and connections of the pools that were not open at the beginning
NOBODY_FILES = 120  # of all workers: their logs, pipes and the pools' connections
WAL_BYTES = 16 * MIB  # checkpoints come at 4 MiB; while somebody reads they wait


class Sample(NamedTuple):
    """Of a service. `wal` is SQLite's write-ahead log, or on PostgreSQL the number of connections."""

    memory: int  # bytes of the largest worker
    files: int  # descriptors of all workers
    wal: int


def soak(run: Run) -> Result:
    """Streams come and go without a pause, readers join and leave them, people look through the history."""
    if run.kind == "postgresql" and not run.long:
        raise NotApplicable  # some seconds of it show little, and load is in other faults too
    result, model = Result("soak"), run.model()
    service = run.start(OPENAI_BASE_URL=model.base_url)
    tokens = run.pick(6, 80)
    crowd = run.crowd(service, clients=STREAMS, tokens=tokens, every_ms=250, think_ms=20)
    with Visitors(service, run.random):
        first_answers(crowd, run.pick(STREAMS // 2, STREAMS * 2))
        samples = [sample(service)]
        until = time.monotonic() + run.pick(3, 600)
        while time.monotonic() < until:
            time.sleep(run.pick(0.5, 5))  # the distance of the samples
            samples.append(sample(service))
    seens = list(crowd.leave())
    all_over(service.database)  # type: ignore[arg-type]
    verdict = check(service, seens, calls=model.asked())
    result.add(verdict)
    result.rounds = len(seens)
    result.expect(all(seen.succeeded for seen in seens), "an answer did not end cleanly, without a fault")
    judge(result, run, samples)
    files_return(result, service)
    quit_at_once(service)
    return result


def first_answers(crowd: object, count: int) -> None:
    """Until everybody's code and caches have been used once: what comes then should stay."""
    eventually(lambda: sum(1 for _ in crowd.seen()) >= count, 90, f"{count} answers")  # type: ignore[attr-defined]


def sample(service: Service) -> Sample:
    workers = service.workers()
    memory = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in workers]
    files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in workers]
    return Sample(max(memory), sum(files), wal_of(service))


def wal_of(service: Service) -> int:
    assert service.database
    if service.database.kind == "sqlite":
        return os.path.getsize(f"{make_url(service.database.url).database}-wal")
    return service.database.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")


def judge(result: Result, run: Run, samples: list[Sample]) -> None:
    """Compare the first fifth with the last."""
    fifth = max(1, len(samples) // 5)
    early, late = samples[:fifth], samples[-fifth:]
    memory = [max(s.memory for s in some) for some in (early, late)]
    files = [max(s.files for s in some) for some in (early, late)]
    wal = max(s.wal for s in samples)
    result.notes = f"memory {memory[0] / MIB:.0f} then {memory[1] / MIB:.0f} MiB, descriptors {files[0]} then {files[1]}, "
    result.notes += f"WAL at most {wal / MIB:.1f} MiB" if run.kind == "sqlite" else f"connections at most {wal}"
    result.expect(memory[1] - memory[0] <= MORE_MEMORY, f"memory grew: {result.notes}")
    most = files[0] + MORE_FILES if run.long else 2 * STREAMS + NOBODY_FILES  # in a few seconds not all are there at first
    result.expect(files[1] <= most, f"descriptors grew: {result.notes}")
    result.expect(wal <= (WAL_BYTES if run.kind == "sqlite" else 60), f"the log grew: {result.notes}")


def files_return(result: Result, service: Service) -> None:
    """Once nobody is there, no descriptor of a stream is left."""
    with suppress(AssertionError):
        eventually(lambda: sample(service).files < NOBODY_FILES, 15, "the end of the connections")
    left = sample(service).files
    result.expect(left < NOBODY_FILES, f"{left} descriptors are open with nobody there")


class Visitors:
    """Somebody who all the time follows the newest answer and leaves again, one way or another, and reads the history."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self.service, self.chance = service, chance
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _visit(self) -> None:
        with Wires() as wires:
            while not self._over.wait(0.2):
                with suppress(requests.RequestException, AssertionError):
                    newest = self.service.client.history(limit=20)["data"]
                    for row in newest[::10]:
                        wire = wires.follow(self.service, row["id"], events=self.chance.random() < 0.5)
                        wire.until(1, 1)
                        wires.leave(wire, self.chance.choice(("FIN", "RST")))
