"""The world outside the service, in processes of its own: a crowd of clients, and the model's server.

    python -m tests.faults.crowd clients '{"urls": [...], "clients": 60, ...}'   a line of JSON for each stream that ended
    python -m tests.faults.crowd model                                           the numbered upstream; says its port first

Both end when their standard input does: the clients ask no more and read what they began, the model says how often it was
asked for what. The parent is tests/faults/harness.py.
"""
from gevent import monkey

monkey.patch_all()

import http.client
import json
import random
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gevent

from tests.faults import numbered
from tests.faults.oracle import ENDS, Seen

PATIENCE_S = 90.0  # no answer of a fault takes longer


@dataclass
class Options:
    """What the crowd does: `clients` at a time, each asking again and again, of the urls by turns."""

    urls: list[str]
    clients: int = 60
    tokens: int = 40
    every_ms: int = 25
    events: float = 0.5  # which share asks for events
    think_ms: int = 50  # from the end of one answer to the next prompt, half to one and a half times this
    asks: int | None = None  # each client so often; None: until told to stop
    seed: int = 0


class Clients:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.stopping = False

    def run(self) -> None:
        """Ask until standard input ends, then let the last answers end."""
        crowd = [gevent.spawn(self._one, number) for number in range(self.options.clients)]
        waiting = gevent.spawn(self._wait_for_the_end)
        gevent.joinall(crowd)
        waiting.kill()

    def _wait_for_the_end(self) -> None:
        gevent.get_hub().threadpool.apply(sys.stdin.buffer.read)
        self.stopping = True

    def _one(self, number: int) -> None:
        o = self.options
        gevent.sleep(self.random.random() * o.tokens * o.every_ms / 1000)  # so that they do not march in step
        asked = 0
        while not self.stopping and (o.asks is None or asked < o.asks):
            prompt = numbered.prompt(o.tokens, o.every_ms, f"s{o.seed}c{number}n{asked}")
            seen = Seen(prompt, events=self.random.random() < o.events)
            observe(seen, o.urls[(number + asked) % len(o.urls)])
            sys.stdout.write(seen.to_json() + "\n")
            asked += 1
            gevent.sleep(o.think_ms * (0.5 + self.random.random()) / 1000)


def observe(seen: Seen, url: str) -> None:
    """Send the prompt and note down all that can be seen of the answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    accept = "text/event-stream" if seen.events else "text/plain"
    fields = {"Content-Type": "application/json", "Accept": accept, "Connection": "close"}
    seen.asked_at = time.monotonic()
    try:
        connection.request("POST", "/stream", json.dumps({"prompt": seen.prompt}), fields)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        seen.ended, seen.end = "unreached", {"detail": repr(error)}
    else:
        with suppress(OSError):
            connection.sock and connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _read(seen, response)
    seen.ended_at = time.monotonic()
    connection.close()


def _read(seen: Seen, response: http.client.HTTPResponse) -> None:
    seen.status, seen.opened_at = response.status, time.monotonic()
    if "Completion-Id" in response.headers:
        seen.completion_id = int(response.headers["Completion-Id"])
    received = b""
    try:
        while piece := response.read1(65536):
            received += piece
            if seen.status == 200:
                received = _take(seen, received)
        seen.ended = "clean"
    except (OSError, http.client.HTTPException) as error:
        seen.ended = "cut"
        if isinstance(error, TimeoutError):
            seen.end = {"detail": "silent for too long", "event": "silence", "error_type": None}
    if seen.status != 200:
        seen.ended = "refused"
        with suppress(ValueError):
            seen.end = json.loads(received)


def _take(seen: Seen, received: bytes) -> bytes:
    """Note what has come; returns what is not whole yet."""
    if not seen.events:
        cut = len(received)
        while cut and len(received[:cut].decode(errors="ignore").encode()) != cut:
            cut -= 1
        _arrived(seen, received[:cut].decode())
        return received[cut:]
    while b"\n\n" in received:
        block, received = received.split(b"\n\n", 1)
        fields: dict[str, str] = dict(line.split(": ", 1) for line in block.decode().split("\n") if line[:1] != ":")
        data: dict[str, Any] = json.loads(fields.get("data", "null"))
        if fields.get("event") == "delta":
            _arrived(seen, data["text"])
        elif fields.get("event") == "created":
            seen.completion_id = data["completion_id"]
        elif fields.get("event") in ENDS:
            seen.end = data | {"event": fields["event"]}
    return received


def _arrived(seen: Seen, text: str) -> None:
    if text:
        seen.text += text
        seen.arrivals.append((round(time.monotonic(), 4), len(seen.text.encode())))


def serve_model() -> None:
    with numbered.Numbered() as upstream:
        print(upstream.port, flush=True)
        while gevent.get_hub().threadpool.apply(sys.stdin.buffer.readline):
            print(json.dumps(upstream.asked), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "model":
        serve_model()
    else:
        Clients(Options(**json.loads(sys.argv[2]))).run()
