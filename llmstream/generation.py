"""One greenlet a completion carries deltas from the provider to the transcript; any number of readers follow it.

A client that leaves, stalls or comes back changes nothing for the writer. Answers that another worker writes are followed
through the database: one poll a worker, five times a second, for all of them together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from typing import Any
from weakref import WeakValueDictionary

import gevent
import requests
from requests.adapters import HTTPAdapter
from sqlalchemy import Connection, Engine, and_, or_, select

from .breath import LEAST_S
from .endings import Ending, broken, completed
from .extensions import first_line, is_passing
from .heartbeat import Heartbeat
from .limits import Limits
from .models import Chunk, Completion
from .provider import ProviderError, Upstream, stream
from .recorder import NotStored, Recorder
from .transcript import Lost, Transcript

log = logging.getLogger(__name__)
POLL_S = 0.2
MOST_COPIES = 50  # followed in one statement: a longer one takes the hub some 50 ms to build
LINGER_FROM, LINGER_EACH_S, LINGER_MOST_S = 20, 0.0005, 0.1  # streams of this worker; seconds for each beyond; seconds
completions = Completion.__table__
chunks = Chunk.__table__


class Generation:
    """All answers that this worker writes or follows. `app.extensions["generation"]`."""

    def __init__(self, engine: Engine, config: dict[str, Any]) -> None:
        self.engine = engine
        limits = Limits(*(config[f"LLMSTREAM_{name}"] for name in ("REQUESTS_PER_MINUTE", "STREAMS_AT_ONCE", "BYTES_PER_DAY")))
        self.recorder = Recorder(engine, limits)
        self.heartbeat = Heartbeat(engine, self.recorder)
        self.upstream = Upstream.from_config(config)
        self.max_bytes: int = config["LLMSTREAM_MAX_ANSWER_BYTES"]
        Transcript.max_unstored_s = config["LLMSTREAM_MAX_UNSTORED_S"]
        Transcript.ping_s = min(10.0, config["LLMSTREAM_READER_TIMEOUT_S"] / 1.5)  # only a ping shows that a client is gone
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc: the settings alone say where prompts go
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=10_000))
        self._writers: dict[int, gevent.Greenlet] = {}
        self._copies: WeakValueDictionary[int, Transcript] = WeakValueDictionary()
        self._poller: gevent.Greenlet | None = None
        self._closed = False

    def begin_work(self) -> None:
        """Start what runs in the background. Called in each worker, after the fork."""
        self.heartbeat.start()
        self._poller = self._poller or gevent.spawn(self._poll_for_ever)

    # Writing

    def start(self, row: dict[str, Any], messages: list[dict[str, str]], parameters: dict[str, Any]) -> Transcript:
        """Commit the row, then begin to write its answer. Raises what `Recorder.begin` raises."""
        if self._closed:
            raise NotStored
        self.begin_work()
        transcript = self.recorder.begin(row)
        assert transcript.id is not None
        self._writers[transcript.id] = gevent.spawn(self._write, transcript, messages, parameters)
        return transcript

    def _write(self, transcript: Transcript, messages: list[dict[str, str]], parameters: dict[str, Any]) -> None:
        try:
            ending = self._carry(transcript, messages, parameters)
        except ProviderError as error:
            transcript.retry_after = error.retry_after
            ending = error.ending
        except Lost:
            ending = broken("worker_lost")  # it has an ending already, and that one counts
        except Exception:
            log.exception("completion %s ended by a fault of ours", transcript.id)
            ending = broken("internal_error")
        finally:
            self._writers.pop(transcript.id or 0, None)
        self.recorder.finish(transcript, ending)
        log.info("completion %s %s after %s ms", transcript.id, ending.status, transcript.duration_ms)

    def _carry(self, transcript: Transcript, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Ending:
        try:
            return self._carry_once(transcript, messages, parameters)
        except ProviderError as error:
            fewer = halved(messages)
            if error.error_type != "context_length_exceeded" or transcript.text or len(fewer) == len(messages):
                raise
            transcript.dropped_turns += (len(messages) - len(fewer)) // 2
            if transcript.row.get("messages"):
                transcript.row["messages"] = fewer
            return self._carry_once(transcript, fewer, parameters)

    def _carry_once(self, transcript: Transcript, messages: list[dict[str, str]], parameters: dict[str, Any]) -> Ending:
        finish_reason: str | None = None
        input_tokens = output_tokens = None
        linger = 0.0
        for delta in stream(self._session, self.upstream, transcript.row["request_model"], messages, parameters):
            room = self.max_bytes - len(transcript.text)
            if delta.text:
                self.recorder.append(transcript, shortened(delta.text, room))
                transcript.arrived -= linger  # it may have been there since we looked away
            transcript.response_model = delta.model or transcript.response_model
            finish_reason = delta.finish_reason or finish_reason
            if delta.input_tokens is not None:
                input_tokens, output_tokens = delta.input_tokens, delta.output_tokens
            if len(delta.text.encode()) > room:
                raise ProviderError("answer_too_long")
            linger = self._linger()
            gevent.sleep(linger)
        return completed(finish_reason)._replace(input_tokens=input_tokens, output_tokens=output_tokens)

    def _linger(self) -> float:
        """Seconds until the next look at this upstream. A visit costs, not a byte: the more streams, the rarer and richer.

        Never none: an upstream that never lets us wait would keep the hub from everybody else.
        """
        return min(max(LEAST_S, (len(self._writers) - LINGER_FROM) * LINGER_EACH_S), LINGER_MOST_S)

    def stop(self, completion_id: int, error_type: str = "cancelled") -> None:
        """End an answer that this worker writes, and hang up on the model. Does nothing if there is none."""
        if transcript := self.recorder.live.get(completion_id):
            self.recorder.finish(transcript, broken(error_type))
        if writer := self._writers.pop(completion_id, None):
            writer.kill(block=False)

    def drain(self, seconds: float) -> None:
        """Let answers finish for so long; end the rest as `incomplete`, and wait until that is stored.

        gunicorn goes on accepting for a second after it was told to stop, and a connection that is kept open may send for two
        more; so new prompts are refused only after three.
        """
        started = time.monotonic()
        gevent.sleep(min(seconds, 3))
        while self.recorder.has_answers and time.monotonic() - started < seconds:
            gevent.sleep(0.05)
        self._closed = True
        with gevent.Timeout(3, False):  # type: ignore[arg-type]
            while self.recorder.has_work:
                for completion_id in list(self.recorder.live):  # a begin that was under way may have landed
                    self.stop(completion_id, "shutdown")
                gevent.sleep(0.02)
        self.heartbeat.stop()

    # Reading

    def follow(self, completion_id: int) -> Transcript | None:
        """The transcript to read: our own, or a copy of what is stored that grows while somebody holds it. None: no such row."""
        found = self.recorder.live.get(completion_id) or self._copies.get(completion_id)
        if found:
            return found
        with self.engine.connect() as connection:
            row = connection.execute(select(completions).where(completions.c.id == completion_id)).first()
            if row is None:
                return None
            known = {"conversation_id": row.conversation_id, "request_model": row.request_model}
            copy = self._copies.setdefault(completion_id, Transcript(known, completion_id))  # one for all its readers
            self._refresh(connection, [copy])
        return copy

    def _poll_for_ever(self) -> None:
        while True:
            gevent.sleep(POLL_S)
            try:
                if self._copies or self.recorder.live:
                    self._poll()
            except Exception as error:
                log.warning("following failed, trying again: %s", first_line(error), exc_info=not is_passing(error))
                gevent.sleep(POLL_S)

    def _poll(self) -> None:
        """New text of the answers we follow, and requests to stop those we write."""
        copies, ours = list(self._copies.values()), list(self.recorder.live)
        with self.engine.connect() as connection:
            for part in range(0, len(copies), MOST_COPIES):
                self._refresh(connection, copies[part : part + MOST_COPIES])
            asked = select(completions.c.id).where(completions.c.id.in_(ours), completions.c.stop_requested)
            stops = connection.scalars(asked).all() if ours else []
        for completion_id in stops:
            self.stop(completion_id)

    def _refresh(self, connection: Connection, copies: list[Transcript]) -> None:
        by_id = {copy.id: copy for copy in copies if not copy.ended}
        beyond = [and_(chunks.c.completion_id == i, chunks.c.start >= len(c.text)) for i, c in by_id.items()]
        new = connection.execute(select(chunks).where(or_(False, *beyond)).order_by(*chunks.primary_key)).all()
        columns = [completions.c[name] for name in ("id", "response", *Ending._fields)]
        rows = {row.id: row for row in connection.execute(select(*columns).where(completions.c.id.in_(by_id))).all()}
        for chunk in new:
            by_id[chunk.completion_id].extend(chunk.start, chunk.text)
        for completion_id, copy in by_id.items():
            row = rows.get(completion_id)
            if row is None:
                copy.settle(broken("cancelled", "It was deleted."))
            elif row.status != "in_progress":
                copy.extend(0, row.response)
                copy.settle(Ending(*(getattr(row, name) for name in Ending._fields)))


def tail(transcript: Transcript, after: int = 0) -> Generator[bytes, None, Ending]:
    """The answer's bytes from `after` on as they come, and b"" where nothing came for `ping_s`. Returns how it ended."""
    while True:
        piece, ending = transcript.read(after)
        if piece:
            after += len(piece)
            yield piece
        elif ending:
            return ending
        elif not transcript.wait(transcript.ping_s):
            yield b""


def shortened(text: str, room: int) -> str:
    """As many whole characters of `text` as fit into `room` bytes."""
    return text if len(text) * 4 <= room else text.encode()[:room].decode("utf-8", "ignore")


def halved(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same conversation without the older half of its turns. System message and last prompt stay."""
    head = messages[:1] if messages[0]["role"] == "system" else []
    past = messages[len(head) : -1]
    turns_to_drop = -(-len(past) // 4)  # two messages a turn, half of them, rounded up
    return [*head, *past[2 * turns_to_drop :], messages[-1]]
