"""What works for long makes way for the others every few milliseconds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import gevent

T = TypeVar("T")
EVERY_S = 0.005
LEAST_S = 1e-6  # sleep(0) makes no way: up to 50 of them come before the hub looks at a socket again


class Breath:
    """To be called again and again between pieces of work: it makes way where the last time was 5 ms ago."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._since > EVERY_S:
            gevent.sleep(LEAST_S)
            self._since = time.monotonic()


def breathing(items: Iterable[T]) -> Iterator[T]:
    """The same items, with a breath in between."""
    breath = Breath()
    for item in items:
        yield item
        breath()
