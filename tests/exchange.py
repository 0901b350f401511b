"""One request as the scripted upstream sees it, and how a script answers it."""
import json
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any


class Gate:
    """Closed until the test opens it: `wait_for(gate)` stops a script there, so no test needs to sleep."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[threading.Event] = []
        self.is_open = False

    def open(self) -> None:
        with self._lock:
            self.is_open = True
            for wake in self._waiting:
                wake.set()

    def wake_on_open(self, wake: threading.Event) -> None:
        with self._lock:
            self._waiting.append(wake)


class Call:
    """One request as it reached the upstream."""

    def __init__(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> None:
        self.method, self.path, self.headers, self.raw = method, path, headers, raw
        self.at = time.monotonic()
        self.ended_at: float | None = None  # the script has run to its end
        self.closed_at: float | None = None  # the service closed its side of the connection
        self.gone = threading.Event()
        self.wake = threading.Event()

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.raw)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.body["messages"]

    def close_seen(self) -> None:
        if self.closed_at is None:
            self.closed_at = time.monotonic()
        self.gone.set()
        self.wake.set()

    def wait_closed(self, within: float = 1.0) -> float:
        """Wait until the service has hung up; returns when (monotonic seconds) or fails."""
        assert self.gone.wait(within), f"the service still held its connection to the upstream after {within} s"
        assert self.closed_at is not None
        return self.closed_at


class Left(Exception):
    """The service hung up in the middle of the script."""


class Exchange:
    """One request being answered: what the steps of a script act on."""

    def __init__(self, sock: socket.socket, call: Call) -> None:
        self.sock, self.call = sock, call
        self.opened = self.ended = False
        self.reusable = True

    def open(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send the head of a streamed answer, once."""
        if self.opened:
            return
        self.opened = True
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"} | (headers or {})
        self.send_raw(head(status, fields))

    def send(self, data: bytes) -> None:
        """Send a piece of the streamed body as one chunk."""
        self.open()
        if data:
            self.send_raw(b"%x\r\n%s\r\n" % (len(data), data))

    def send_raw(self, data: bytes) -> None:
        if self.call.gone.is_set():
            raise Left
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.call.close_seen()
            raise Left from error

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the time, or for ever; the service hanging up ends it."""
        if self.call.gone.wait(seconds):
            raise Left

    def wait_for(self, gate: Gate) -> None:
        """Wait for the gate; the service hanging up ends it."""
        gate.wake_on_open(self.call.wake)
        while not gate.is_open and not self.call.gone.is_set():
            self.call.wake.wait()
            self.call.wake.clear()
        if self.call.gone.is_set():
            raise Left

    def end(self) -> None:
        """The body's last chunk: the clean end of HTTP, which says nothing about the answer in it."""
        if not self.ended:
            self.open()
            self.send_raw(b"0\r\n\r\n")
            self.ended = True

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection without a last chunk; with `reset` by RST instead of FIN."""
        self.ended, self.reusable = True, False
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)


def head(status: int, fields: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted"] + [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
