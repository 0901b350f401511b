"""Two instances on one database, the second with one worker: on PostgreSQL what two machines would be."""
import atexit
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.harness import Run
from tests.faults.numbered import Numbered
from tests.service import Database, Service


@dataclass
class Pair:
    one: Service
    other: Service
    database: Database
    upstream: Numbered


_pairs: dict[str, Pair] = {}
_locks = {"sqlite": threading.Lock(), "postgresql": threading.Lock()}


@contextmanager
def pair(run: Run) -> Iterator[Pair]:
    """The two that the scenarios of this process share, one after the other: starting them takes longer than most faults."""
    with _locks[run.kind]:
        if run.kind not in _pairs:
            lasting = Run(run.seed, run.long, run.kind, Path(tempfile.mkdtemp(prefix="faults-pair-")))
            one = lasting.start()
            assert one.database
            _pairs[run.kind] = Pair(one, lasting.start(one.database, WEB_CONCURRENCY=1), one.database, lasting.upstream)
            atexit.register(shutil.rmtree, lasting.folder, ignore_errors=True)
            atexit.register(lasting.__exit__)
            atexit.register(quit_at_once, one, _pairs[run.kind].other)
        yield _pairs[run.kind]


def quit_at_once(*services: Service) -> None:
    """End services without their orderly end, which others test."""
    for service in services:
        with suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        service.process.wait()
