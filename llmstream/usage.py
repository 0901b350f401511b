"""How many requests of any kind one key or user, and one address, may send in a minute, over all workers and instances.

Each worker counts what it is asked. Once a second it adds that to a table, and reads there what all have counted: a limit may be
passed by what arrives within that second.
"""

from __future__ import annotations

import logging
import time
from collections import Counter

import gevent
from sqlalchemy import BigInteger, Connection, Engine, Integer, Text, delete
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.exceptions import TooManyRequests

from .extensions import db, first_line, is_passing, transact
from .storage import upsert

log = logging.getLogger(__name__)
SHARE_S = 1.0


class Usage(db.Model):  # type: ignore[name-defined]
    """The requests of one minute."""

    __tablename__ = "usage"
    who: Mapped[str] = mapped_column(Text, primary_key=True)  # 'key:7', 'user:3', 'address 192.0.2.1'
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # since 1970
    requests: Mapped[int] = mapped_column(Integer)


usage = Usage.__table__


class Meter:
    """The requests of this worker that are not yet in the table, and how many all workers had when it looked last."""

    def __init__(self, engine: Engine, per_minute: int) -> None:
        self.engine, self.per_minute = engine, per_minute
        self._minute = 0
        self._ours: Counter[str] = Counter()
        self._all: dict[str, int] = {}
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Called in each worker, after the fork."""
        self._greenlet = self._greenlet or gevent.spawn(self._run)

    def count(self, who: str) -> None:
        """Count one request. Raises TooManyRequests where it is one too many."""
        self._turn_over()
        self._ours[who] += 1
        if self._all.get(who, 0) + self._ours[who] > self.per_minute:
            left = 60 - int(time.time()) % 60
            raise TooManyRequests(f"At most {self.per_minute} requests a minute. Try again in {left} s.", retry_after=left)

    def _turn_over(self) -> None:
        """What was counted in the last second of a minute and is not in the table is forgotten."""
        if (minute := int(time.time() // 60)) != self._minute:
            self._minute, self._ours, self._all = minute, Counter(), {}

    def _run(self) -> None:
        while True:
            gevent.sleep(SHARE_S)
            try:
                self._share()
            except Exception as error:  # meanwhile each worker counts for itself
                log.warning("requests could not be counted: %s", first_line(error), exc_info=not is_passing(error))

    def _share(self) -> None:
        self._turn_over()
        minute, ours = self._minute, self._ours.copy()
        if not ours:
            return
        with self.engine.connect() as connection:
            totals = transact(connection, lambda c: add(c, minute, ours))
        if minute == self._minute:
            self._ours -= ours  # without the zeros
            self._all |= totals


def add(connection: Connection, minute: int, ours: dict[str, int]) -> dict[str, int]:
    """Add these to what all have counted in this minute. How many that makes."""
    made = upsert(connection, usage)
    more = {"requests": usage.c.requests + made.excluded.requests}
    added = made.on_conflict_do_update(index_elements=["who", "minute"], set_=more).returning(usage.c.who, usage.c.requests)
    # in order, so that no two workers wait for each other
    rows = [{"who": who, "minute": minute, "requests": count} for who, count in sorted(ours.items())]
    totals = {row.who: row.requests for row in connection.execute(added, rows)}
    connection.execute(delete(usage).where(usage.c.minute < minute - 1))
    return totals
