"""How long a worker's hub lets a cheap request wait, without the time in which the machine had no core for the two of us.

    python -m tests.faults.probe PORT PID ...     asks each of these workers on a connection of its own, all the time

For each line on standard input it says the worst since the last one, in ms: as measured, and as the service's own. The
difference is what the kernel counted as ready to run, and waiting for a core: of the worst thread of the worker, since one that
stands still with the interpreter's lock holds up the others, and of our own. What the hub itself ran for is never taken off.
"""
import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.cores import Starvation, hub_ran_ms
from tests.faults.sockets import inode_of

EVERY_S = 0.008
REQUEST = b"GET /static/none HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Probe:
    """One connection that a known worker has accepted."""

    def __init__(self, port: int, pid: int) -> None:
        self.port, self.pid = port, pid
        self._connect()

    def _connect(self) -> None:
        """Connect until this very worker accepts."""
        self.sock = socket.create_connection(("127.0.0.1", self.port), 60)
        others = []
        self.ask()
        while accepted_by(self.port, self.sock.getsockname()[1]) != self.pid:
            others.append(self.sock)  # held, so that the others are busier
            self.sock = socket.create_connection(("127.0.0.1", self.port), 60)
            self.ask()
        for other in others:
            other.close()

    def ask(self) -> tuple[float, float]:
        """One request: ms, and ms without waiting for a core."""
        waited, began = Starvation(self.pid), time.monotonic()
        try:
            ran = hub_ran_ms(self.pid)
            self.sock.sendall(REQUEST)
            received = b""
            while b"\r\n\r\n" not in received or len(received.split(b"\r\n\r\n", 1)[1]) < _length(received):
                if not (piece := self.sock.recv(65536)):
                    raise ConnectionResetError
                received += piece
            ms = (time.monotonic() - began) * 1000
            return ms, max(hub_ran_ms(self.pid) - ran, ms - waited.seconds() * 1000)
        except ConnectionError:
            self._connect()
            return 0.0, 0.0


def _length(received: bytes) -> int:
    head = received.split(b"\r\n\r\n", 1)[0].lower()
    return int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0


def accepted_by(port: int, from_port: int) -> int | None:
    """The process that holds the service's end of this connection."""
    inode = inode_of(("127.0.0.1", port), ("127.0.0.1", from_port))
    for process in Path("/proc").glob("[0-9]*") if inode else ():
        with suppress(OSError):
            if any(os.readlink(fd) == f"socket:[{inode}]" for fd in (process / "fd").iterdir()):
                return int(process.name)
    return None


def main() -> None:
    port, pids = int(sys.argv[1]), [int(pid) for pid in sys.argv[2:]]
    probes = [Probe(port, pid) for pid in pids]
    worst_ms, own_ms, asked = 0.0, 0.0, 0
    print("ready", flush=True)
    while True:
        for probe in probes:
            ms, own = probe.ask()
            worst_ms, own_ms, asked = max(worst_ms, ms), max(own_ms, own), asked + 1
        if select.select([sys.stdin], [], [], EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            print(json.dumps({"worst_ms": round(worst_ms, 1), "own_ms": round(own_ms, 1), "requests": asked}), flush=True)
            worst_ms, own_ms, asked = 0.0, 0.0, 0


if __name__ == "__main__":
    main()
