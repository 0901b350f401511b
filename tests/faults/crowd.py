"""The world outside the service, in processes of its own: a crowd of clients, and the model's server.

    python -m tests.faults.crowd clients '{"urls": [...], "clients": 60, ...}'   a line of JSON for each stream that ended
    python -m tests.faults.crowd model                                           the numbered upstream; says its port first

Both end when their standard input does: the clients ask no more and read what they began, the model says how often it was
asked for what. The parent is tests/faults/harness.py.
"""
# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import json
import os
import random
import sys
from dataclasses import dataclass

import gevent

from tests.faults import numbered
from tests.faults.observer import Seen, observe


@dataclass
class Options:
    """What the crowd does: `clients` at a time, each asking again and again, of the urls by turns."""

    urls: list[str]
    clients: int = 60
    tokens: int = 40
    every_ms: int = 25
    events: float = 0.5  # which share asks for events
    think_ms: int = 50  # from the end of one answer to the next prompt, half to one and a half times this
    spread_ms: int | None = None  # over which time the first prompts come; None: as long as one answer takes
    asks: int | None = None  # each client so often; None: until told to stop
    seed: int = 0
    name: str = "k"  # the first part of all tags


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
        gevent.get_hub().threadpool.apply(os.read, (0, 1))
        self.stopping = True

    def _one(self, number: int) -> None:
        o = self.options
        spread_ms = o.tokens * o.every_ms if o.spread_ms is None else o.spread_ms
        gevent.sleep(self.random.random() * spread_ms / 1000)  # so that they do not march in step
        asked = 0
        while not self.stopping and (o.asks is None or asked < o.asks):
            prompt = numbered.prompt(o.tokens, o.every_ms, f"{o.name}c{number}n{asked}")
            seen = Seen(prompt, events=self.random.random() < o.events)
            observe(seen, o.urls[(number + asked) % len(o.urls)])
            sys.stdout.write(seen.to_json() + "\n")
            asked += 1
            gevent.sleep(o.think_ms * (0.5 + self.random.random()) / 1000)


def serve_model() -> None:
    with numbered.Numbered() as upstream:
        print(upstream.port, flush=True)
        while gevent.get_hub().threadpool.apply(os.read, (0, 1)):
            print(json.dumps(upstream.asked), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "model":
        serve_model()
    else:
        Clients(Options(**json.loads(sys.argv[2]))).run()
