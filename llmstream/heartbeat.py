"""Who is alive: each worker raises its beat, and ends the rows of a worker whose beat stands still.

A worker is gone when its beat was the same in six readings in a row, one a second, each of them after the reader committed a
beat of its own. Clocks play no part in it, and time in which the database stands still does not count: then nobody reads.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta

import gevent
from sqlalchemy import ColumnElement, Connection, Engine, delete, exists, select, update
from sqlalchemy.exc import DBAPIError

from .endings import broken
from .extensions import first_line, is_passing, transact
from .models import Chunk, Completion, Worker, now
from .recorder import Recorder
from .storage import be_known

log = logging.getLogger(__name__)
BEAT_S = 1.0
BEAT_LIMIT_S = 2.0  # a connection that hangs is given up in time to beat again by another
GONE_AFTER = 6  # readings
PART = 20  # rows ended in one transaction: what is done stays done, however slow the database is
PAUSE_S = 0.05  # between two parts
SWEEP_AFTER_S = 10  # a begin that nobody waits for any more has either landed by then or never will

completions = Completion.__table__
chunks = Chunk.__table__
workers = Worker.__table__
Identity = tuple[str, int]  # (worker_id, epoch)


class Heartbeat:
    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self.engine = engine
        self.recorder = recorder
        self._seen: dict[Identity, tuple[int, int]] = {}  # a worker: its beat, and in how many readings it was the same
        self._connection: Connection | None = None  # kept: in a queue for one, requests would be served first
        self._greenlet: gevent.Greenlet | None = None
        self._stopped = False

    def start(self) -> None:
        self._greenlet = self._greenlet or gevent.spawn(self._run)

    def _run(self) -> None:
        while not self._stopped:
            began = time.monotonic()
            try:
                with gevent.Timeout(BEAT_LIMIT_S, TimeoutError(f"the database took more than {BEAT_LIMIT_S:g} s")):
                    self.beat()
            except Exception as error:
                log.warning("the heartbeat could not be stored: %s", first_line(error), exc_info=not is_passing(error))
            gevent.sleep(max(0.1, began + BEAT_S - time.monotonic()))

    def beat(self) -> None:
        """Raise our beat, read the others', end the rows of those that are gone."""
        self._connection = self._connection or self.engine.connect()
        try:
            gone = self._observe(transact(self._connection, self._raise_and_read))
            ended = transact(self._connection, lambda c: self._bury(c, gone))
            for worker in gone:
                log.warning("worker %s is gone", worker[0])
            self._end_more(self._connection, ended)
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def _end_more(self, connection: Connection, ended: int) -> None:
        """Part after part, for a second; then it is time to beat again, and what is left comes after that."""
        enough = time.monotonic() + BEAT_S
        while ended:
            log.warning("ended what workers left behind that are gone: answers %d", ended)
            if ended < PART or time.monotonic() > enough:
                return
            gevent.sleep(PAUSE_S)  # SQLite has one writer at a time, and text that is being written is to be stored
            ended = transact(connection, end_orphans)

    def _raise_and_read(self, connection: Connection) -> dict[Identity, int]:
        be_known(connection, self.recorder.me)  # at first, and again where we were given up for dead
        connection.execute(update(workers).where(_is(self.recorder.me)).values(beat=workers.c.beat + 1))
        everyone = connection.execute(select(workers).where(~_is(self.recorder.me)))
        return {(row.id, row.epoch): row.beat for row in everyone}

    def _observe(self, others: dict[Identity, int]) -> dict[Identity, int]:
        """The workers that are gone, with the beat at which they stood still."""
        seen = {}
        for worker, beat in others.items():
            last, still = self._seen.get(worker, (None, 0))
            seen[worker] = (beat, still + 1 if beat == last else 0)
        self._seen = seen
        return {worker: beat for worker, (beat, still) in seen.items() if still >= GONE_AFTER}

    def _bury(self, connection: Connection, gone: dict[Identity, int]) -> int:
        """Strike out workers that still have not moved, and begin to end the rows whose worker is not there. How many ended."""
        for worker, beat in gone.items():
            connection.execute(delete(workers).where(_is(worker), workers.c.beat == beat))
        self._sweep(connection)
        return end_orphans(connection)

    def _sweep(self, connection: Connection) -> None:
        """Our rows that we do not know: begins that were given up and landed all the same."""
        old = completions.c.created_at < now() - timedelta(seconds=SWEEP_AFTER_S)
        live = completions.c.status == "in_progress"
        ours = (completions.c.worker_id == self.recorder.me[0]) & (completions.c.epoch == self.recorder.me[1])
        known = set(self.recorder.live)  # before the look: an answer leaves `live` only when its end is committed
        for completion_id in connection.scalars(select(completions.c.id).where(live, ours, old).with_for_update()).all():
            if completion_id not in known:
                end_orphan(connection, completion_id, "not_started")

    def stop(self) -> None:
        """Strike ourselves out, so that whatever we leave is ended at once by the next; if that fails, it takes some beats."""
        self._stopped = True  # a kill alone can be lost: an error of the database's in its wake takes its place
        if self._greenlet:
            self._greenlet.kill(timeout=BEAT_LIMIT_S + BEAT_S)
        try:
            with self.engine.connect() as connection:
                transact(connection, lambda c: c.execute(delete(workers).where(_is(self.recorder.me))))
        except Exception as error:
            log.warning("the worker could not strike itself out: %s", first_line(error))


def _is(worker: Identity) -> ColumnElement[bool]:
    return (workers.c.id == worker[0]) & (workers.c.epoch == worker[1])


def end_orphans(connection: Connection) -> int:
    """End up to PART rows whose worker is not there. How many; those that another worker is just ending are left to it."""
    its_worker = (workers.c.id == completions.c.worker_id) & (workers.c.epoch == completions.c.epoch)
    left = (completions.c.status == "in_progress") & ~exists().where(its_worker)
    orphans = connection.scalars(select(completions.c.id).where(left).limit(PART).with_for_update(skip_locked=True)).all()
    for completion_id in orphans:
        end_orphan(connection, completion_id)
    return len(orphans)


def end_orphan(connection: Connection, completion_id: int, error_type: str = "worker_lost") -> None:
    """End a row that nobody writes any more with the text and the times that its chunks hold."""
    query = select(chunks.c.text, chunks.c.at_ms).where(chunks.c.completion_id == completion_id)
    pieces = connection.execute(query.order_by(chunks.c.start)).all()
    text = "".join(piece.text for piece in pieces)
    if pieces and error_type == "not_started":
        error_type = "storage_rejected"  # the model was asked; only the ending could not be stored
    kept = f"{len(text):,} characters were kept." if text else "No text had been stored."
    row = {**broken(error_type, kept if error_type == "worker_lost" else "")._asdict(), "response": text}
    if pieces:
        row |= {"time_to_first_token_ms": pieces[0].at_ms, "duration_ms": pieces[-1].at_ms}
    this = update(completions).where(completions.c.id == completion_id, completions.c.status == "in_progress")
    try:
        with connection.begin_nested():
            connection.execute(this.values(row))
    except DBAPIError as error:  # one row that the database refuses must not keep the others from being ended
        if is_passing(error):
            raise
        connection.execute(this.values({**broken("storage_rejected")._asdict(), "response": ""}))
    connection.execute(delete(chunks).where(chunks.c.completion_id == completion_id))
