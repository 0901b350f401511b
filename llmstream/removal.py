"""What a deletion would take, and taking it: in transactions of some milliseconds with a pause between, so that text that is
being written is stored in time meanwhile.

Chunks, reviews, tags with their changes and the search index follow by cascade and trigger; a regeneration stays, without its
reference.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

import gevent
from sqlalchemy import Connection, case, delete, exists, func, select, text, update

from .extensions import db, is_passing, transact
from .filters import Filter
from .judgements import Review
from .models import Completion, Conversation, title_of
from .schemas import BIGGEST_ID

completions, conversations = Completion.__table__, Conversation.__table__
place = func.coalesce(completions.c.turn, completions.c.id)  # Completion.place
has_text = completions.c.status.in_(("incomplete", "cancelled")) & (completions.c.response != "")
is_usable = (completions.c.status == "completed") | has_text  # Completion.is_usable
TURN = (completions.c.id, completions.c.conversation_id.label("talk"), place.label("place"), is_usable.label("is_usable"))
LOCK_S, PAUSE_S = 0.012, 0.005  # how long the write lock is held at a time, and how long at least it is left
FIRST, MOST = 10, 200  # rows of a transaction
TRIES, TRY_S = 20, 0.5  # a database that takes no writes


class Going(NamedTuple):
    """What a deletion would take."""

    answers: int
    first: datetime | None
    last: datetime | None
    judgements: int
    running: int  # being written, so they stay


def going(chosen: Filter) -> Going:
    """Counted in windows of ids: no statement takes long, however many there are."""
    answers = judgements = 0
    first: datetime | None = None
    last: datetime | None = None
    for ids in chosen.in_windows():
        ended = ids.where(Completion.status != "in_progress")
        at = ended.with_only_columns(Completion.created_at).subquery().c.created_at
        count, oldest, newest = db.session.execute(select(func.count(), func.min(at), func.max(at))).one()
        if not count:
            continue
        answers += count
        first, last = min(first or oldest, oldest), max(last or newest, newest)
        judgements += db.session.scalar(select(func.count()).where(Review.completion_id.in_(ended))) or 0
    live = running_ids()
    conditions = chosen.conditions(min(live), max(live) + 1) if live else []
    running = db.session.scalar(select(func.count()).where(Completion.id.in_(live), *conditions)) if live else 0
    return Going(answers, first, last, judgements, running or 0)


def running_ids() -> list[int]:
    return list(db.session.scalars(select(Completion.id).where(text("status = 'in_progress'"))))


def remove_all(chosen: Filter, upto: int = BIGGEST_ID - 1, spared: Collection[int] = ()) -> Iterator[int]:
    """Delete what the filter shows, but for these and what is being written. Gives how many are gone, again and again."""
    before, after, gone = 0, 0, 0
    while ids := chosen.after(1000, after, upto):
        db.session.remove()
        for gone in remove([one for one in ids if one not in spared]):
            yield before + gone
        before, after, gone = before + gone, ids[-1], 0
    db.session.remove()


def remove(ids: list[int]) -> Iterator[int]:
    """Delete these, a few at a time. Gives how many are gone after each try."""
    size, gone, tries = FIRST, 0, 0
    while ids:
        part, began = ids[:size], time.monotonic()
        try:
            with db.engine.connect() as connection:
                gone += transact(connection, lambda c, part=part: erase(c, part))  # type: ignore[misc]
        except Exception as error:
            tries += 1
            if not is_passing(error) or tries == TRIES:
                raise
            gevent.sleep(TRY_S)
            yield gone
            continue
        took, ids, tries = time.monotonic() - began, ids[size:], 0
        size = max(1, min(MOST, int(size * LOCK_S / took)))
        yield gone
        gevent.sleep(max(PAUSE_S, took))


def erase(connection: Connection, ids: list[int]) -> int:
    ended = completions.c.id.in_(ids), completions.c.status != "in_progress"
    gone = connection.execute(delete(completions).where(*ended).returning(*TURN)).all()
    talks = {row.talk for row in gone}
    # PostgreSQL: a prompt that is being stored in one of these holds it, and must be seen below
    connection.execute(select(conversations.c.id).where(conversations.c.id.in_(talks)).order_by("id").with_for_update())
    is_empty = ~exists().where(completions.c.conversation_id == conversations.c.id)
    connection.execute(delete(conversations).where(conversations.c.id.in_(talks), is_empty))
    note_gaps(connection, gone)
    return len(gone)


def note_gaps(connection: Connection, gone: Sequence[Any]) -> None:
    """Of conversations that go on: what was sent with a turn that is gone now says so; the title is of a prompt that is there."""
    talk = completions.c.conversation_id
    oldest = select(func.min(completions.c.id)).where(talk.in_({row.talk for row in gone})).group_by(talk)
    left = select(talk, func.substr(completions.c.prompt, 1, 500)).where(completions.c.id.in_(oldest))
    for one, prompt in connection.execute(left).all():
        turns = [row for row in gone if row.talk == one]
        connection.execute(update(conversations).where(conversations.c.id == one).values(title=title_of(prompt)))
        later = talk == one, place > min(row.place for row in turns), completions.c.messages.is_(None)
        connection.execute(update(completions).where(*later).values(lacks_turns=True))
        uncount(connection, one, turns)


def uncount(connection: Connection, talk: int, gone: Sequence[Any]) -> None:
    """`dropped_turns` of what is left: turns that are gone, and had been too old to be sent with it, are counted no longer."""
    here = completions.c.conversation_id == talk
    dropped = case((completions.c.messages.is_(None), completions.c.dropped_turns), else_=0).label("dropped")
    left = connection.execute(select(*TURN, dropped).where(here)).all()
    there = {row.id for row in left}
    usable = sorted((row for row in (*left, *gone) if row.is_usable), key=attrgetter("place", "id"))
    for row in (row for row in left if row.dropped):
        earlier = [one for one in usable if one.place < row.place and one.id < row.id]
        unsent = islice(dict.fromkeys(one.place for one in earlier), row.dropped)
        still = len({one.place for one in earlier if one.id in there}.intersection(unsent))
        connection.execute(update(completions).where(completions.c.id == row.id).values(dropped_turns=still))
