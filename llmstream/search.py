"""Full-text search over prompts and answers: FTS5 on SQLite, `tsvector` with GIN on PostgreSQL.

The index is filled behind the answers, never with them: triggers put the id of each completion that has ended into a queue, and
one worker, the first in the table of workers, takes them out of it, the newest first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from operator import itemgetter
from typing import Any

import gevent
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    bindparam,
    cast,
    column,
    delete,
    func,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from .breath import breathing
from .extensions import db, first_line, is_passing, transact
from .models import Completion, Worker, now
from .words import Term, parse, slices, words

log = logging.getLogger(__name__)
LOOK_S = 1.0
REST_S = 5.0  # after a failure; and at most after a batch, which may have taken so long since the database was held
SHARE_OF_OTHERS = 15  # while answers are being written: so many times as long as a batch took, the next one waits
BATCH = 40  # completions a transaction,
BATCH_CHARACTERS = 100_000  # or so much text: on SQLite new text of running answers waits meanwhile
OLDER = timedelta(minutes=2)  # what ended later is in the index in a moment
INDEXED = 200_000  # characters of a prompt, and of an answer, that are indexed

completions = Completion.__table__
queue = table("completions_fts_queue", column("completion_id", BigInteger))
STORE = {
    # no INSERT ... SELECT: before each of these FTS5 writes out what it has gathered, which costs a hundred times more
    "sqlite": "INSERT OR REPLACE INTO completions_fts (rowid, words) VALUES (:id, :document)",
    "postgresql": "INSERT INTO completions_fts VALUES (:id, CAST(:document AS tsvector)) "
    "ON CONFLICT (completion_id) DO UPDATE SET document = EXCLUDED.document",
}


# Asking


def window(ids: Any, low: int, high: int) -> ColumnElement[bool]:
    """low <= id < high. The numbers stand in the statement itself, so that PostgreSQL plans for this very window."""

    def number(value: int) -> Any:
        return bindparam(None, value, BigInteger, literal_execute=True)

    return (ids >= number(low)) & (ids < number(high))


def matching(query: str, low: int, high: int) -> Select[Any]:
    """The ids from `low` to below `high` of all indexed completions that this query finds; none for one without words."""
    terms = parse(query)
    if db.engine.dialect.name == "sqlite":
        ids = column("rowid", BigInteger)
        found = literal_column("completions_fts").op("MATCH")(" ".join(map(_fts5, terms)) or '""')
    else:  # the cast takes words as they are: no dictionary, no parser
        ids = column("completion_id", BigInteger)
        found = literal_column("document").op("@@")(cast(" & ".join(map(_tsquery, terms)), TSQUERY))
    matches = select(ids).select_from(table("completions_fts")).where(found, window(ids, low, high))
    # planned as if all were wanted: for the first twenty of a rare word PostgreSQL would read every document
    return matches.offset(0) if db.engine.dialect.name == "postgresql" else matches


def _fts5(term: Term) -> str:
    return f'"{" ".join(term.words)}"{" *" * term.prefix}'


def _tsquery(term: Term) -> str:
    phrase = " <-> ".join(f"'{word}'" for word in term.words)
    return f"({phrase}{':*' * term.prefix})"


def is_behind() -> bool:
    """Whether older completions are not in the index yet: only for a while after the first start on old data."""
    oldest = select(func.min(queue.c.completion_id)).scalar_subquery()
    begun = db.session.scalar(select(Completion.created_at).where(Completion.id == oldest))
    return begun is not None and begun < now() - OLDER


# Filling


class Indexer:
    """Fills the index, where `me` (worker_id, epoch) is the first of the workers."""

    def __init__(self, engine: Engine, me: tuple[str, int], live: Collection[Any]) -> None:
        """`live`: the answers that are being written; while there are any, the index takes a small share of the time only."""
        self.engine = engine
        self.me = me
        self.live = live
        self.kind = engine.dialect.name
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = self._greenlet or gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                more = self.step()
            except Exception as error:  # nothing may end this greenlet
                log.warning("the search index could not be filled: %s", first_line(error), exc_info=not is_passing(error))
                gevent.sleep(REST_S)
                continue
            worked = time.monotonic() - started
            pause = worked * (SHARE_OF_OTHERS if self.live else 1)
            gevent.sleep(min(max(0.01, pause), REST_S) if more else LOOK_S)

    def step(self) -> bool:
        """Index one batch, if there is something and it is ours to do. Whether there may be more."""
        with self.engine.connect() as connection:
            if not Worker.is_first(connection, self.me):
                return False
            ids = connection.scalars(select(queue).order_by(queue.c.completion_id.desc()).limit(BATCH)).all()
            documents = list(self._documents(connection, ids))
        if documents:
            self._store(documents)
        return bool(documents)

    def _documents(self, connection: Connection, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The first of these as they are indexed, as many as fit into one transaction."""
        texts = select(completions.c.id, *(func.substr(completions.c[name], 1, INDEXED) for name in ("prompt", "response")))
        size = 0
        for completion_id in ids:
            row = connection.execute(texts.where(completions.c.id == completion_id)).first()
            size += sum(map(len, row[1:])) if row else 0
            if row:
                yield {"id": completion_id, "document": self._document(*row[1:])}
            if size > BATCH_CHARACTERS:
                return

    def _document(self, *parts: str) -> str:
        found: list[str] = []
        for part in parts:
            for piece in breathing(slices(part)):
                found += words(piece)
        return " ".join(found) if self.kind == "sqlite" else tsvector(found)

    def _store(self, documents: list[dict[str, Any]]) -> None:
        try:
            with self.engine.connect() as connection:
                transact(connection, lambda connection: self._write(connection, documents))
        except Exception as error:
            if is_passing(error) or not any(document["document"] for document in documents):
                raise
            log.error("the search index refused one of %d: %s", len(documents), first_line(error))
            for lone in documents:  # one that is refused must not keep the others out; it is not looked for again
                self._store([lone if len(documents) > 1 else {**lone, "document": ""}])

    def _write(self, connection: Connection, documents: list[dict[str, Any]]) -> None:
        these = queue.c.completion_id.in_([document["id"] for document in documents])
        left = set(connection.scalars(select(queue.c.completion_id).where(these)))  # others were deleted meanwhile
        if new := [document for document in documents if document["id"] in left]:
            new.sort(key=itemgetter("id"))  # FTS5 writes out what it has gathered wherever ids go down
            connection.execute(text(STORE[self.kind]), new)
            connection.execute(delete(queue).where(these))


def tsvector(found: list[str]) -> str:
    """These words in this order as PostgreSQL reads a tsvector: within its limits of 1 MB, 256 places a word, 16,383 places."""
    places: dict[str, list[str]] = {}
    room = 1_000_000
    for place, word in enumerate(found, 1):
        known = places.get(word)
        room -= 2 if known else len(word.encode()) + 8
        if room < 0:
            break
        if known is None:
            places[word] = [str(place)]
        elif place < 16_384 and len(known) < 255:
            known.append(str(place))
    return " ".join(f"'{word}':{','.join(at)}" for word, at in places.items())
