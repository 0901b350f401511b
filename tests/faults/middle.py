"""A listener between the service and PostgreSQL, to freeze the very backend that has just been told to commit.

    with Middle(server, folder) as middle:
        url = middle.url(database)
        caught = middle.catch("INSERT INTO chunks")     # the next transaction in which this is said
        caught.wait()                                   # its backend is frozen, the COMMIT is in its socket
        caught.given_up.wait(20)                        # the service has closed that connection
        caught.release()                                # now it lands
"""
import os
import signal
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.service import Database

KEY_DATA, PARSE, BIND, QUERY = b"K", b"P", b"B", b"Q"


class Caught:
    """One commit to freeze, or that is frozen."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.pid = 0
        self.frozen, self.given_up = threading.Event(), threading.Event()

    def wait(self, within: float = 20.0) -> None:
        assert self.frozen.wait(within), f"no transaction that says {self.said!r} came within {within} s"

    def freeze(self, pid: int) -> None:
        self.pid = pid
        os.kill(pid, signal.SIGSTOP)
        self.frozen.set()

    def release(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Middle:
    """Passes everything on; two threads a connection."""

    def __init__(self, server: Any, folder: Path) -> None:
        self._to = str(server.get_postmaster_info().socket_path)
        self._folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen(100)
        self.armed: Caught | None = None
        self.lock = threading.Lock()

    def __enter__(self) -> "Middle":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def database(self, direct: Database) -> Database:
        """The same database, by this way."""
        return Database(f"{direct.url.split('?')[0]}?host={self._folder}")

    def catch(self, said: str) -> Caught:
        self.armed = Caught(said)
        return self.armed

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._to)
                Passage(self, client, server).start()


class Passage:
    """One connection: reads what the service says, message by message, and passes it on."""

    def __init__(self, middle: Middle, client: socket.socket, server: socket.socket) -> None:
        self.middle, self.client, self.server = middle, client, server
        self.pid = 0
        self.prepared: dict[bytes, str] = {}
        self.said: list[str] = []  # in this transaction
        self.caught: Caught | None = None

    def start(self) -> None:
        for run in (self._upwards, self._downwards):
            threading.Thread(target=run, daemon=True).start()

    def _upwards(self) -> None:
        with suppress(OSError, EOFError), self.client.makefile("rb") as incoming:
            self.server.sendall(_whole(incoming, b""))
            while message := _whole(incoming, _exactly(incoming, 1)):
                self._look(message)
                self.server.sendall(message)
        if self.caught:
            self.caught.given_up.set()
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)

    def _look(self, message: bytes) -> None:
        kind, body = message[:1], message[5:]
        if kind == QUERY:
            self._hear(body.rstrip(b"\0").decode())
        elif kind == PARSE:
            name, query = body.split(b"\0")[:2]
            self.prepared[name] = query.decode()
        elif kind == BIND:
            self._hear(self.prepared.get(body.split(b"\0")[1], ""))

    def _hear(self, statement: str) -> None:
        if statement not in ("COMMIT", "ROLLBACK"):
            self.said.append(statement)
            return
        if statement == "COMMIT":
            with self.middle.lock:
                armed = self.middle.armed
                if armed and any(armed.said in said for said in self.said):
                    self.middle.armed, self.caught = None, armed
                    armed.freeze(self.pid)
        self.said = []

    def _downwards(self) -> None:
        with suppress(OSError, EOFError), self.server.makefile("rb") as incoming:
            while message := _whole(incoming, _exactly(incoming, 1)):
                if message[:1] == KEY_DATA:
                    self.pid = struct.unpack("!I", message[5:9])[0]
                self.client.sendall(message)
        for sock in (self.client, self.server):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _whole(incoming: Any, kind: bytes) -> bytes:
    """One message: its kind (none in the first one), its length, its body."""
    length = _exactly(incoming, 4)
    return kind + length + _exactly(incoming, struct.unpack("!I", length)[0] - 4)


def _exactly(incoming: Any, size: int) -> bytes:
    data = incoming.read(size)
    if len(data) < size:
        raise EOFError
    return data
