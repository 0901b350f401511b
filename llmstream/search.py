"""Full-text search over prompts and answers: FTS5 on SQLite, `tsvector` with GIN on PostgreSQL.

The index is filled behind the answers, never with them: one worker, the first in the table of workers, looks once a second for
finished completions that are not in it. The newest come first, then what is left, from the oldest on. Up to `indexed_to` nothing
is missing any more, and nothing is looked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
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
    insert,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from .breath import breathing
from .extensions import db, first_line, is_passing, transact
from .models import Completion, SearchProgress, Worker, now
from .words import Term, parse, slices, words

log = logging.getLogger(__name__)
LOOK_S = 1.0
REST_S = 5.0  # after a failure; and at most after a batch, which may have taken so long since the database was held
SHARE_OF_OTHERS = 15  # while answers are being written: so many times as long as a batch took, the next one waits
BATCH = 40  # completions a transaction,
BATCH_CHARACTERS = 100_000  # or so much text: on SQLite new text of running answers waits meanwhile
WINDOW = 2000  # ids a look
SETTLED = timedelta(seconds=60)  # no commit of a lower id comes later than this
INDEXED = 200_000  # characters of a prompt, and of an answer, that are indexed

completions = Completion.__table__
progress = SearchProgress.__table__
IS_INDEXED = {
    "sqlite": "SELECT 1 FROM completions_fts_docsize WHERE id = completions.id",
    "postgresql": "SELECT 1 FROM completions_fts WHERE completion_id = completions.id",
}
STORE = {
    # no INSERT ... SELECT: before each of these FTS5 writes out what it has gathered, which costs a hundred times more
    "sqlite": "INSERT INTO completions_fts (rowid, words) VALUES (:id, :document)",
    "postgresql": "INSERT INTO completions_fts VALUES (:id, CAST(:document AS tsvector)) ON CONFLICT DO NOTHING",
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


def behind() -> int:
    """About how many older completions are not in the index yet: 0, except for a while after the first start on old data."""
    done = db.session.scalar(select(progress.c.indexed_to)) or 0
    older = db.session.scalar(_settled(2 * SETTLED))
    return max(0, (older or 0) - done)


def _settled(age: timedelta) -> Select[Any]:
    """An id below which all have been committed."""
    made = completions.c.created_at
    return select(completions.c.id).where(made < now() - age).order_by(made.desc()).limit(1)


# Filling


class Indexer:
    """Fills the index, where `me` (worker_id, epoch) is the first of the workers."""

    def __init__(self, engine: Engine, me: tuple[str, int], live: Collection[Any]) -> None:
        """`live`: the answers that are being written; while there are any, the index takes a small share of the time only."""
        self.engine = engine
        self.me = me
        self.live = live
        self.kind = engine.dialect.name
        self._missing = text(f"NOT EXISTS ({IS_INDEXED[self.kind]})")
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
            done = connection.scalar(select(progress.c.indexed_to)) or 0
            ids, reached = self._missing_ids(connection, done)
            documents = list(self._documents(connection, ids))
        if len(documents) < len(ids):
            reached = done
        if documents or reached > done:
            self._store(documents, reached)
        return bool(documents) or reached - done >= WINDOW

    def _missing_ids(self, connection: Connection, done: int) -> tuple[list[int], int]:
        """The next ids to index, and up to where nothing is missing once they are."""
        ended = (completions.c.status != "in_progress", self._missing)
        newest = connection.scalar(select(func.max(completions.c.id))) or 0
        missing = select(completions.c.id).limit(BATCH)
        recent = window(completions.c.id, max(done + 1, newest - WINDOW), newest + 1)
        if new := connection.scalars(missing.where(recent, *ended).order_by(completions.c.id.desc())).all():
            return list(new), done
        start = connection.scalar(select(func.min(completions.c.id)).where(completions.c.id > done)) or done + 1
        old = missing.where(window(completions.c.id, start, start + WINDOW), *ended).order_by(completions.c.id)
        ids = list(connection.scalars(old))
        reached = ids[-1] if len(ids) == BATCH else start + WINDOW - 1
        running = connection.scalars(select(completions.c.id).where(completions.c.status == "in_progress"))
        limits = [connection.scalar(_settled(SETTLED)) or 0, *(i - 1 for i in running if i > done)]
        return ids, max(done, min(reached, *limits))

    def _documents(self, connection: Connection, ids: list[int]) -> Iterator[dict[str, Any]]:
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

    def _store(self, documents: list[dict[str, Any]], reached: int) -> None:
        try:
            with self.engine.connect() as connection:
                transact(connection, lambda connection: self._write(connection, documents, reached))
        except Exception as error:
            if is_passing(error) or not any(document["document"] for document in documents):
                raise
            log.error("the search index refused one of %d: %s", len(documents), first_line(error))
            for lone in documents:  # one that is refused must not keep the others out; it is not looked for again
                self._store([lone if len(documents) > 1 else {**lone, "document": ""}], 0)

    def _write(self, connection: Connection, documents: list[dict[str, Any]], reached: int) -> None:
        there = select(completions.c.id).where(completions.c.id.in_([document["id"] for document in documents]), self._missing)
        left = set(connection.scalars(there))  # without those that were deleted, or indexed by another worker, meanwhile
        if new := [document for document in documents if document["id"] in left]:
            new.sort(key=itemgetter("id"))  # FTS5 writes out what it has gathered wherever ids go down
            connection.execute(text(STORE[self.kind]), new)
        if reached:
            connection.execute(delete(progress))
            connection.execute(insert(progress).values(id=1, indexed_to=reached))


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
