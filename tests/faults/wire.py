"""Clients on bare sockets, hundreds in one thread: each notes what it received, when, and how it ended.

    with Wires() as wires:
        one = wires.ask(service, "Hello")          # POST /stream, as text; `events=True`, `key="..."`
        two = wires.follow(service, one_id, 17)    # GET /stream/<id>?after=17
        one.until(5)                               # five bytes of text have come
        two.whole()                                # the text of an answer that ended cleanly
"""
import json
import selectors
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

from tests.service import Service

ENDS = ("completed", "failed", "incomplete", "cancelled")


class Wire:
    """One request and what came of it. Times are `time.monotonic()`."""

    def __init__(self, sock: socket.socket, request: bytes, events: bool = False) -> None:
        self.sock, self.events = sock, events
        self.address: tuple[str, int] = sock.getsockname()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.opened_at = 0.0
        self.text = b""
        self.arrivals: list[tuple[float, int]] = []  # when, and how many bytes of text there were then
        self.body = b""  # of an answer that is no stream
        self.ended: str | None = None  # "clean", "cut", "refused" (an HTTP error), "left" (we hung up)
        self.end: dict[str, Any] = {}  # the last event: its data and "event"; or the problem document
        self.ended_at = 0.0
        self._news = threading.Condition()
        self._buffer, self._events = b"", b""
        self._left: int | None = None  # bytes of a body with a Content-Length that are still to come
        self.asked_at = time.monotonic()
        sock.sendall(request)

    @property
    def completion_id(self) -> int:
        return int(self.headers["completion-id"])

    @property
    def conversation_id(self) -> int:
        return int(self.headers["conversation-id"])

    def until(self, size: int, within: float = 20.0) -> None:
        """Wait for so many bytes of text."""
        with self._news:
            came = self._news.wait_for(lambda: len(self.text) >= size or self.ended, within)
        assert came and len(self.text) >= size, f"{len(self.text)} of {size} bytes in {within} s; {self}"

    def over(self, within: float = 30.0) -> "Wire":
        """Wait for the end, whichever it is."""
        with self._news:
            assert self._news.wait_for(lambda: self.ended, within), f"no end within {within} s; {self}"
        return self

    def whole(self, within: float = 30.0) -> bytes:
        self.over(within)
        assert self.succeeded, f"not a clean end; {self}"
        return self.text

    @property
    def succeeded(self) -> bool:
        """Was this client told that its answer is whole?"""
        return self.ended == "clean" and (not self.events or self.end.get("event") == "completed")

    def __str__(self) -> str:
        return f"status {self.status}, {len(self.text)} bytes, ended {self.ended}, {self.end or self.body[:200]!r}"

    def reset(self) -> None:
        """Hang up with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # What arrives

    def feed(self, data: bytes) -> None:
        with self._news:
            self._buffer += data
            if self.status is None and b"\r\n\r\n" in self._buffer:
                self._head()
            if self.status is not None:
                self._sized() if self._left is not None else self._chunks()
            self._news.notify_all()

    def _head(self) -> None:
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *fields = head.decode("latin-1").split("\r\n")
        self.status, self.opened_at = int(first.split()[1]), time.monotonic()
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        if "content-length" in self.headers:
            self._left = int(self.headers["content-length"])

    def _sized(self) -> None:
        self.body += self._buffer
        self._buffer = b""
        if len(self.body) >= (self._left or 0):
            with suppress(ValueError):
                self.end = json.loads(self.body)
            self.close("clean" if self.status == 200 else "refused")

    def _chunks(self) -> None:
        at, body = 0, []
        while (line_end := self._buffer.find(b"\r\n", at)) >= 0:
            size = int(self._buffer[at:line_end], 16)
            if len(self._buffer) < line_end + 2 + size + 2:
                break
            body.append(self._buffer[line_end + 2:line_end + 2 + size])
            at = line_end + 2 + size + 2
            if size == 0:
                self.close("clean")
        self._buffer = self._buffer[at:]
        new = self._deltas(b"".join(body)) if self.events else b"".join(body)
        if new:
            self.text += new
            self.arrivals.append((time.monotonic(), len(self.text)))

    def _deltas(self, data: bytes) -> bytes:
        self._events += data
        *blocks, self._events = self._events.split(b"\n\n")
        new = b""
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            if fields.get("event") == "delta":
                new += json.loads(fields["data"])["text"].encode()
            elif fields.get("event") in ENDS:
                self.end = json.loads(fields["data"]) | {"event": fields["event"]}
        return new

    def close(self, ended: str) -> None:
        with self._news:
            if self.ended is None:
                self.ended, self.ended_at = ended, time.monotonic()
            self._news.notify_all()


class Wires:
    """The thread that reads them all."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._coming: list[Wire] = []
        self._leaving: list[Wire] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Wires":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()

    def ask(self, service: Service, prompt: str, *, events: bool = False, key: str | None = None,
            sock: socket.socket | None = None, read: bool = True, **more: Any) -> Wire:
        body = json.dumps({"prompt": prompt} | more).encode()
        fields = {"Content-Type": "application/json", "Content-Length": len(body)} | ({"Idempotency-Key": key} if key else {})
        return self._send(service, "POST /stream", fields, body, events, sock, read)

    def follow(self, service: Service, completion_id: int, after: int = 0, *, events: bool = False) -> Wire:
        return self._send(service, f"GET /stream/{completion_id}?after={after}", {}, b"", events, None, True)

    def _send(self, service: Service, call: str, fields: dict[str, Any], body: bytes, events: bool,
              sock: socket.socket | None, read: bool) -> Wire:
        fields = {"Host": f"127.0.0.1:{service.port}", "Connection": "close",
                  "Accept": "text/event-stream" if events else "text/plain"} | service.client.headers | fields
        head = "\r\n".join([f"{call} HTTP/1.1"] + [f"{name}: {value}" for name, value in fields.items()])
        wire = Wire(sock or service.connect(), head.encode() + b"\r\n\r\n" + body, events)
        if read:
            self._coming.append(wire)
            self._wake.send(b"x")
        return wire

    def leave(self, wire: Wire, how: str = "FIN") -> None:
        """Hang up: at once with "RST", orderly with "FIN"; with "half" only our own direction is closed."""
        if how == "half":
            return wire.sock.shutdown(socket.SHUT_WR)
        if how == "RST":
            wire.reset()
        self._leaving.append(wire)
        self._wake.send(b"x")
        wire.over(5)

    def _read(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._change()
                elif not self._receive(key.data):
                    self._forget(key.data)

    def _change(self) -> None:
        while self._coming:
            wire = self._coming.pop()
            wire.sock.setblocking(False)
            self._selector.register(wire.sock, selectors.EVENT_READ, wire)
        while self._leaving:
            wire = self._leaving.pop()
            self._forget(wire)
            wire.close("left")

    def _forget(self, wire: Wire) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(wire.sock)
        wire.sock.close()

    def _receive(self, wire: Wire) -> bool:
        """Take what has come; False when there will be no more."""
        try:
            data = wire.sock.recv(262144)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if data:
            wire.feed(data)
        else:
            wire.close("cut")
        return bool(data)
