"""Makes transcripts durable. One flusher a worker makes the rows equal the transcripts, all in one transaction.

The protocol (docs/architecture.md): a row is committed before the first byte of its answer leaves; text is stored at most 50 ms
behind; the ending is stored before a stream ends. A commit whose outcome is unknown is written again, so every write can be
repeated; and every write is guarded, so that a worker that was given up for dead changes nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any

import gevent
from gevent.event import Event
from sqlalchemy import Connection, Engine
from werkzeug.exceptions import ServiceUnavailable

from .endings import Ending, broken
from .extensions import first_line, is_passing, transact
from .limits import Limits
from .storage import Write, snapshot, write
from .transcript import Lost, Transcript

log = logging.getLogger(__name__)
FLUSH_S = 0.05
BEGIN_S = 3.0
RETRY_S, LOCKED_RETRY_S = 0.25, 0.01  # the lock was waited for already, so ask again soon
STORE_WAIT_S = 30.0  # how long an answer waits whose unstored text has reached the cap
MAX_UNSTORED_BYTES = 1 << 20  # of one answer, held while the database takes no writes


class NotStored(ServiceUnavailable):
    """The prompt could not be stored within BEGIN_S, or this worker begins nothing any more. The model was not asked."""

    description = "The prompt could not be stored, so the model was not asked. Nothing was kept. Try again in a few seconds."


class Recorder:
    """The writes of one worker. `me`, (worker_id, epoch), stands in each row that is its own."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits = engine, limits
        self.me = (f"{socket.gethostname()}:{os.getpid()}", time.time_ns() // 1_000_000)
        self.live: dict[int, Transcript] = {}  # by completion id: the answers that this worker is writing
        self._beginning: dict[Transcript, Event] = {}
        self._refused: dict[Transcript, Exception] = {}
        self._notes: list[dict[str, Any]] = []
        self._work, self._urgent = Event(), Event()
        self._connection: Connection | None = None
        self._flusher: gevent.Greenlet | None = None

    def begin(self, row: dict[str, Any]) -> Transcript:
        """Commit the row of a new completion. Raises NotStored, Taken, or what the database has against the row."""
        self._flusher = self._flusher or gevent.spawn(self._run)
        transcript, done = Transcript(row), Event()
        self._beginning[transcript] = done
        self._wake()
        try:
            done.wait(BEGIN_S)
        except BaseException:  # whoever asked is gone
            if transcript.id is not None:
                self.finish(transcript, broken("not_started"))
            raise
        finally:
            self._beginning.pop(transcript, None)  # withdrawn, where it is not yet stored
            error = self._refused.pop(transcript, None)
        if error:
            raise error
        if not done.is_set():  # not what wait() returns: on a busy hub the time can be up first, though the event is set
            raise NotStored
        return transcript

    def append(self, transcript: Transcript, text: str) -> None:
        """Add text to an answer. Raises Lost where it cannot be stored any more."""
        if transcript.ending:
            raise Lost
        transcript.append(text)
        self._work.set()
        while len(transcript.text) - transcript.stored > MAX_UNSTORED_BYTES and not transcript.ending:
            self._wake()  # the model is not read meanwhile
            if not transcript.wait(STORE_WAIT_S):
                self.finish(transcript, broken("storage"))
                raise Lost

    def finish(self, transcript: Transcript, ending: Ending) -> None:
        """End an answer. The first ending counts; readers learn of it when it is stored."""
        if not transcript.ending:
            transcript.finish(ending)
            self._wake()

    def note(self, completion_id: int, **columns: Any) -> None:
        """Facts about the delivery, stored with the next visit. They change nothing of the answer."""
        self._notes.append({"of": completion_id, **columns})
        self._work.set()

    @property
    def has_answers(self) -> bool:
        return bool(self._beginning or self.live)

    @property
    def has_work(self) -> bool:
        return self.has_answers or bool(self._notes)

    def _wake(self) -> None:
        self._urgent.set()
        self._work.set()

    def _run(self) -> None:
        started = 0.0
        while True:
            self._work.wait()
            # Text may gather until 50 ms after the start of the last visit; a begin or an ending goes at once, with all there is.
            self._urgent.wait(max(0.001, started + FLUSH_S - time.monotonic()))
            started = time.monotonic()
            self._work.clear()
            self._urgent.clear()
            try:
                self._visit()
            except Exception as error:  # nothing may end the flusher: what is not stored stays in memory
                log.warning("storing failed, trying again: %s", first_line(error), exc_info=not is_passing(error))
                self._work.set()
                gevent.sleep(LOCKED_RETRY_S if "locked" in first_line(error) else RETRY_S)

    def _visit(self) -> None:
        batch = [w for t in (*self._beginning, *self.live.values()) if (w := snapshot(t))]
        notes, self._notes = self._notes, []
        try:
            self._store(batch, notes)
        except Exception as error:
            if is_passing(error):
                self._notes = notes + self._notes
                raise
            log.warning("one of %d writes was refused, writing each alone: %s", len(batch), error)
            self._notes = notes + self._notes
            for lone in batch:
                self._store_alone([lone], [])
            for note in notes:
                self._store_alone([], [note])
                self._notes.remove(note)

    def _store_alone(self, one: list[Write], note: list[dict[str, Any]]) -> None:
        try:
            self._store(one, note)
        except Exception as error:
            if is_passing(error):
                raise
            for lone in one:
                self._refuse(lone.transcript, error)

    def _refuse(self, transcript: Transcript, error: Exception) -> None:
        """The database has something against this very write: it ends with what is stored, and the others go on."""
        log.error("the database refused completion %s: %s", transcript.id, error)
        refusal = broken("storage_rejected")
        if transcript.id is None:
            self._answer(transcript, error)
        elif transcript.ending == refusal and not transcript.text:  # the sweep of the heartbeat tries once more
            self._settle(transcript, refusal)
        else:
            kept = 0 if transcript.ending == refusal else transcript.stored  # where even that is refused, nothing is kept
            del transcript.text[kept:]
            transcript.finish(refusal)
            self._wake()

    def _store(self, batch: list[Write], notes: list[dict[str, Any]]) -> None:
        """One transaction; what it learned is made known only after the commit."""
        self._connection = self._connection or self.engine.connect()
        try:
            transact(self._connection, lambda c: write(c, batch, notes, self.me, self.limits))
        except BaseException:
            self._connection.close()
            self._connection = None
            raise
        for done in batch:
            self._stored(done)

    def _stored(self, done: Write) -> None:
        transcript = done.transcript
        if transcript.id is None:
            self._begun(done)
        elif done.not_ours or done.ending:
            self._settle(transcript, done.not_ours or done.ending)
        else:
            transcript.stored, transcript.piece_end = done.end, None
            transcript.unstored_since = None
            if len(transcript.text) > done.end:
                transcript.unstored_since = time.monotonic()
                self._work.set()
            transcript.tell()

    def _begun(self, done: Write) -> None:
        transcript = done.transcript
        if done.taken or done.new_id is None:
            return self._answer(transcript, done.taken)
        transcript.id, transcript.conversation_id = done.new_id, done.conversation_id
        self.live[done.new_id] = transcript
        if transcript not in self._beginning:  # withdrawn meanwhile: nobody waits, and the model is not asked
            self.finish(transcript, broken("not_started"))
        self._answer(transcript, None)

    def _answer(self, transcript: Transcript, error: Exception | None) -> None:
        """Tell the request that waits for this begin, if it still does."""
        if done := self._beginning.pop(transcript, None):
            if error:
                self._refused[transcript] = error
            done.set()

    def _settle(self, transcript: Transcript, ending: Ending | None) -> None:
        self.live.pop(transcript.id or 0, None)
        transcript.stored, transcript.unstored_since = len(transcript.text), None
        transcript.settle(ending or broken("internal_error"))
