"""The scripted upstream: a real HTTP server that speaks OpenAI's chat completions exactly as badly as a test asks for.

    with Upstream() as upstream:
        gate = Gate()
        hello = upstream.script(delta("Hel"), wait_for(gate), delta("lo"), finish(), done())
        requests.post(service.url + "/stream", json={"prompt": hello.prompt}, stream=True)
        gate.open()
        assert hello.call().messages[-1] == {"role": "user", "content": hello.prompt}

The prompt picks the script: `hello.prompt` is `Answer me. [[s7]]`, and the last user message that says `[[s7]]` gets
that script. So any number of tests and streams share one server. A prompt that names no script gets `upstream.default`.
A script ends cleanly (last chunk of the body, connection kept) unless a step did something worse. The steps are in
`steps.py`. `python -m tests.upstream` serves a slow answer for a look by hand.
"""
import itertools
import re
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.exchange import Call, Exchange, Left
from tests.steps import MODEL, Step, answer, flat, status, typing


@dataclass
class Script:
    """What to answer to the prompts that carry its name, and the calls that did."""

    name: str
    runs: list[list[Step]]
    calls: list[Call] = field(default_factory=list)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def prompt(self) -> str:
        return f"Answer me. [[{self.name}]]"

    def then(self, *steps: Any) -> "Script":
        """What the next call gets (the last one is repeated)."""
        self.runs.append(list(flat(steps)))
        return self

    def call(self, number: int = 1, within: float = 5.0) -> Call:
        """The nth call (1 is the first), waiting for it."""
        with self.arrived:
            found = self.arrived.wait_for(lambda: len(self.calls) >= number, within)
        assert found, f"call {number} of script {self.name} did not come within {within} s ({len(self.calls)} did)"
        return self.calls[number - 1]

    def took(self, call: Call) -> list[Step]:
        with self.arrived:
            self.calls.append(call)
            self.arrived.notify_all()
            return self.runs[min(len(self.calls), len(self.runs)) - 1]


class Upstream:
    """The server: one thread a connection, one that accepts, one that sees connections being closed."""

    def __init__(self, port: int = 0) -> None:
        self._names = itertools.count(1)
        self._scripts: dict[str, Script] = {}
        self._connections: dict[socket.socket, bool] = {}  # is it idle?
        self._selector = selectors.DefaultSelector()
        self._listener = _listener(port)
        self.port = self._listener.getsockname()[1]
        self.default = Script("default", [list(flat(answer("Hello", " from", " the", " scripted", " model.")))])
        self.default.name = "default"
        self.calls: list[Call] = []
        self.closing = False

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, *steps: Any, name: str | None = None) -> Script:
        """Register what to answer to prompts that carry `[[name]]`; `script(...).prompt` is such a prompt."""
        name = name or f"s{next(self._names)}"
        self._scripts[name] = Script(name, [list(flat(steps))])
        return self._scripts[name]

    def __enter__(self) -> "Upstream":
        self._listen()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self._listener.close()
        for sock in list(self._connections):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """While this lasts the port is ours but nobody listens: connections are refused."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        self._listener = _listener(self.port)
        for sock in [sock for sock, idle in list(self._connections.items()) if idle]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self._listen()

    def _listen(self) -> None:
        self._listener.listen(1024)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[sock] = True
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        call: Call | None = None
        try:
            with suppress(OSError, ValueError), sock.makefile("rb") as incoming:
                while following := _read_call(incoming):
                    call = following
                    if not self._answer(sock, call):
                        return
                    self._connections[sock] = True
            if call:  # the service has hung up between two requests
                call.close_seen()
        finally:
            self._connections.pop(sock, None)
            sock.close()

    def _answer(self, sock: socket.socket, call: Call) -> bool:
        """Run the script for this call; True if the connection can take another."""
        self._connections[sock] = False
        self.calls.append(call)
        exchange = Exchange(sock, call)
        self._selector.register(sock, selectors.EVENT_READ, call)
        try:
            for step in self._steps(call):
                step(exchange)
            exchange.end()
            if not exchange.reusable:
                return False
        except Left:
            return False
        finally:
            call.ended_at = time.monotonic()
            self._forget(sock)
        return call.headers.get("connection", "").lower() != "close"

    def _steps(self, call: Call) -> list[Step]:
        if call.method == "GET":
            return [status(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})]
        if not call.path.endswith("/chat/completions"):
            return [status(404)]
        asked = [m.get("content") for m in call.messages if m.get("role") == "user"]
        named = re.findall(r"\[\[(\w+)\]\]", asked[-1]) if asked and isinstance(asked[-1], str) else []
        script = self._scripts.get(named[-1]) if named else self.default
        return script.took(call) if script else [status(500, {"error": {"message": f"no script {named}"}})]

    def _watch(self) -> None:
        """Sees the service hang up, whatever the script is doing at that time."""
        while not self.closing:
            for key, _ in self._selector.select(0.5):
                sock: Any = key.fileobj
                try:
                    ended = sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
                except BlockingIOError:
                    continue
                except OSError:
                    ended = True
                self._forget(sock)
                if ended:
                    key.data.close_seen()

    def _forget(self, sock: socket.socket) -> None:
        with suppress(KeyError, ValueError, OSError):
            self._selector.unregister(sock)


def _listener(port: int) -> socket.socket:
    """A bound socket that does not listen yet, so connecting to it is refused."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _read_call(incoming: Any) -> Call | None:
    """Read one request, or None at the end of the connection."""
    line = incoming.readline().decode("latin-1").split()
    if len(line) < 2:
        return None
    fields = {}
    while (field_line := incoming.readline().decode("latin-1").strip()):
        name, _, value = field_line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return Call(line[0], line[1], fields, incoming.read(int(fields.get("content-length", 0))))


if __name__ == "__main__":
    with Upstream(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as served:
        served.default.runs = [list(flat(typing(*(f"word{i} " for i in range(100)), every=0.05)))]
        print(f"OPENAI_BASE_URL={served.base_url} LLMSTREAM_MODEL={MODEL}", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
