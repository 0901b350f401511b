"""The real thing under test: gunicorn with gevent workers on a free port, and a second look at its database."""
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa

from tests.client import Client, eventually

ROOT = Path(__file__).resolve().parent.parent
one_database = pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
OURS = ("LLMSTREAM_", "OPENAI_", "GUNICORN_", "DATABASE_URL", "HOST", "PORT", "WEB_CONCURRENCY", "FLASK_")


def free_port() -> int:
    """Below the ports that systems give to connections, so that none takes it before the service listens."""
    while True:
        port = 11_000 + secrets.randbelow(21_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Database:
    """A database of our own beside the service's: what is committed is what we see."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.kind = "sqlite" if url.startswith("sqlite") else "postgresql"
        options: dict[str, Any] = {}
        if self.kind == "sqlite":
            import pysqlite3
            options = {"module": pysqlite3, "connect_args": {"timeout": 10}}
        driver_url = url.replace("postgresql://", "postgresql+psycopg://")
        self.engine = sa.create_engine(driver_url, poolclass=sa.NullPool, **options)

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.text(query), values).mappings()]

    def value(self, query: str, **values: Any) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(sa.text(query), values).scalar()

    def execute(self, query: str, **values: Any) -> int:
        with self.engine.begin() as connection:
            return connection.execute(sa.text(query), values).rowcount

    def completion(self, completion_id: int) -> dict[str, Any]:
        (row,) = self.rows("SELECT * FROM completions WHERE id = :id", id=completion_id)
        return row

    def count(self) -> int:
        return self.value("SELECT count(*) FROM completions")

    def stored_text(self, completion_id: int) -> str:
        """What a kill of the worker would leave: the chunks, or the whole response once it is finished."""
        chunks = self.rows("SELECT text FROM chunks WHERE completion_id = :id ORDER BY start", id=completion_id)
        return "".join(chunk["text"] for chunk in chunks) or self.completion(completion_id)["response"] or ""


class Service:
    """llmstream as it is run in earnest."""

    live: "list[Service]" = []  # noqa: RUF012

    def __init__(self, folder: Path, database: Database | None, *, under: Sequence[str] = (), **settings: Any) -> None:
        """Start gunicorn in the repository and wait until it answers.

        :param folder: where its log goes
        :param database: what DATABASE_URL says; None leaves the default
        :param under: what runs it, e.g. `["strace", "-D"]`
        :param settings: further environment, e.g. `LLMSTREAM_IDLE_TIMEOUT_S=1`
        """
        self.port = int(settings.setdefault("PORT", free_port()))
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = database
        self.log_path = folder / f"service-{self.port}.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        if database:
            settings["DATABASE_URL"] = database.url
        environ = clean | {name: str(value) for name, value in settings.items()}
        command = [*under, sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, start_new_session=True)
        self.client = Client(self.url)
        self.marked = 0
        Service.live.append(self)

    def wait_ready(self, within: float = 20.0) -> "Service":
        def answers() -> bool:
            assert self.process.poll() is None, f"the service ended at its start:\n{self.log()}"
            try:
                return self.client.get("/history?limit=1").status_code in (200, 401)  # with a login, who is nobody gets 401
            except requests.RequestException:
                return False
        try:
            eventually(answers, within, "readiness")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.log()}") from None
        return self

    def log(self) -> str:
        """What it wrote since the last mark."""
        return self.log_path.read_bytes()[self.marked:].decode(errors="replace")

    def mark(self) -> None:
        self.marked = self.log_path.stat().st_size

    def workers(self) -> list[int]:
        """The pids of the gunicorn workers."""
        ask = ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)]
        listed = subprocess.run(ask, capture_output=True, text=True).stdout
        return [int(line.split()[0]) for line in listed.splitlines() if "gunicorn" in line]

    def kill_workers(self) -> None:
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)

    def stop(self, within: float = 40.0) -> None:
        """End it as Ctrl-C does, and see that nothing of it is left."""
        if self in Service.live:
            Service.live.remove(self)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"the service did not end within {within} s after SIGINT\n{self.log()}") from None
        try:
            eventually(lambda: not _group_lives(self.process.pid), 5, "the end of the service's processes")
        except AssertionError:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        if self in Service.live:
            Service.live.remove(self)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def connect(self, timeout: float = 15.0) -> socket.socket:
        """A bare TCP connection, for what no HTTP library would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def talk(self, request: bytes) -> bytes:
        """Send bytes, read until the service closes."""
        with self.connect() as sock:
            sock.sendall(request)
            received = b""
            while piece := sock.recv(65536):
                received += piece
            return received


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
