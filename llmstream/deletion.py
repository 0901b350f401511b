"""Deleting: one answer, a conversation, all that a filter shows, and what is older than the retention allows.

In transactions of some milliseconds with a pause between, so that text that is being written is stored in time meanwhile. Chunks,
reviews, tags and the search index follow by cascade and trigger; a regeneration stays, without its reference.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import click
import gevent
from flask import Blueprint, Flask, Response, current_app, redirect, render_template, request, stream_template
from flask.cli import with_appcontext
from sqlalchemy import Connection, delete, exists, func, select
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import Conflict

from .accounts import Audit, audit
from .ask import find
from .delivery import STREAM_HEADERS
from .extensions import db, first_line, is_passing, transact
from .filters import Filter
from .gate import received_body
from .judgements import Review
from .models import Completion, Conversation, Worker, now
from .schemas import rfc3339

log = logging.getLogger(__name__)
bp = Blueprint("deletion", __name__)
completions, conversations = Completion.__table__, Conversation.__table__
LOCK_S, PAUSE_S = 0.012, 0.005  # how long the write lock is held at a time, and how long at least it is left
FIRST, MOST = 10, 200  # rows of a transaction
TRIES, TRY_S = 20, 0.5  # a database that takes no writes
RETAIN_S = 3600.0


class Going(NamedTuple):
    """What a deletion would take."""

    answers: int
    conversations: int
    first: datetime | None
    last: datetime | None
    judgements: int
    running: int  # being written, so they stay


@bp.delete("/history/<int:completion_id>")
def one(completion_id: int) -> dict[str, int]:
    return at_once([find(Completion, completion_id)], f"completion {completion_id}")


@bp.post("/history/<int:completion_id>/delete")
def one_by_form(completion_id: int) -> Any:
    received_body()
    one(completion_id)
    return redirect("/history", 303)


@bp.delete("/conversations/<int:conversation_id>")
def conversation(conversation_id: int) -> dict[str, int]:
    find(Conversation, conversation_id)
    return at_once(Completion.of_conversation(conversation_id), f"conversation {conversation_id}")


def at_once(chosen: Iterable[Completion], target: str) -> dict[str, int]:
    """All of them, or with 409 none."""
    status = {completion.id: completion.status for completion in chosen}
    if "in_progress" in status.values():
        raise Conflict("An answer of these is still being written. Stop it, or wait for its end. Nothing was deleted.")
    audit("delete", target, {"answers": len(status)})
    return {"deleted": max(remove(list(status)), default=0)}


@bp.get("/delete")
def page() -> str:
    chosen = Filter.load(request.args)
    return render_template("delete.html", filter=chosen, going=going(chosen))


@bp.post("/delete")
def confirmed() -> Any:
    """Deletes what was shown, if that many was typed and it is still that many; the page tells how far it is."""
    received_body()
    chosen = Filter.load(request.args)
    all_of_it, shown = going(chosen), re.sub(r"\D", "", request.form.get("shown", ""))
    if shown != str(all_of_it.answers):
        wrong = "This has changed since you looked. Nothing was deleted. Look at it again, and confirm the new number."
        return render_template("delete.html", filter=chosen, going=all_of_it, wrong=wrong), 409
    if not shown or re.sub(r"[\s,.']", "", request.form.get("typed", "")) != shown:
        wrong = f"Nothing was deleted: to confirm, type the number {shown}."
        return render_template("delete.html", filter=chosen, going=all_of_it, wrong=wrong), 422
    audit("delete", "history", {"query": chosen.query(), "answers": all_of_it.answers})
    job = Job(current_app._get_current_object(), chosen)  # type: ignore[attr-defined]
    db.session.remove()
    stream = stream_template("delete.html", filter=chosen, going=all_of_it, job=job)
    return Response(stream, mimetype="text/html", headers=STREAM_HEADERS)


def going(chosen: Filter) -> Going:
    ended, where = Completion.status != "in_progress", chosen.conditions()
    talks, at = Completion.conversation_id, Completion.created_at
    sums = select(func.count(), func.count(talks.distinct()), func.min(at), func.max(at)).where(ended, *where)
    judged = select(func.count()).where(Review.completion_id.in_(select(Completion.id).where(ended, *where)))
    running = select(func.count()).where(~ended, *where)
    return Going(*db.session.execute(sums).one(), db.session.scalar(judged) or 0, db.session.scalar(running) or 0)


class Job:
    """A deletion in the background: who leaves the page does not end it."""

    def __init__(self, app: Flask, chosen: Filter) -> None:
        self.gone, self.failed = 0, False
        self.greenlet = gevent.spawn(self._run, app, chosen)

    def _run(self, app: Flask, chosen: Filter) -> None:
        try:
            with app.app_context():
                for self.gone in remove_all(chosen):
                    pass
        except Exception as error:
            self.failed = True
            log.warning("a deletion ended early: %s", first_line(error), exc_info=not is_passing(error))

    @property
    def steps(self) -> Iterator[int]:
        """How many are gone, at first often, then every few seconds."""
        pause = 0.5
        while not self.greenlet.ready():
            self.greenlet.join(pause)
            pause = min(pause * 1.3, 10)
            yield self.gone


def remove_all(chosen: Filter) -> Iterator[int]:
    """Delete what the filter shows now, but for what is being written. Gives how many are gone, again and again."""
    before, after = 0, 0
    while ids := chosen.after(1000, after):
        db.session.remove()
        for gone in remove(ids):
            yield before + gone
        before, after = before + gone, ids[-1]
    db.session.remove()


def remove(ids: list[int]) -> Iterator[int]:
    """Delete these, a few at a time. Gives how many are gone after each time."""
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
            continue
        took, ids, tries = time.monotonic() - began, ids[size:], 0
        size = max(1, min(MOST, int(size * LOCK_S / took)))
        yield gone
        gevent.sleep(max(PAUSE_S, took))


def erase(connection: Connection, ids: list[int]) -> int:
    ended = completions.c.id.in_(ids), completions.c.status != "in_progress"
    talks = connection.scalars(delete(completions).where(*ended).returning(completions.c.conversation_id)).all()
    is_empty = ~exists().where(completions.c.conversation_id == conversations.c.id)
    connection.execute(delete(conversations).where(conversations.c.id.in_(set(talks)), is_empty))
    return len(talks)


# Retention


def older_than(days: int) -> Filter:
    return Filter.load(MultiDict({"to": rfc3339(now() - timedelta(days=days))}))


class Retention:
    """Deletes about once an hour what is older than `days`, in the first of all workers. None: nothing is too old."""

    def __init__(self, app: Flask, days: int | None) -> None:
        self.app, self.days = app, days
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        if self.days:
            self._greenlet = self._greenlet or gevent.spawn(self._run, self.days)

    def _run(self, days: int) -> None:
        me = self.app.extensions["generation"].recorder.me
        while True:
            gevent.sleep(2)  # by now it is known who is there
            try:
                with self.app.app_context():
                    if Worker.is_first(db.session.connection(), me):
                        retain(days)
            except Exception as error:  # nothing may end this greenlet
                log.warning("the retention could not be applied: %s", first_line(error), exc_info=not is_passing(error))
            gevent.sleep(RETAIN_S)


def retain(days: int) -> int:
    gone = max(remove_all(older_than(days)), default=0)
    if gone:
        db.session.add(Audit(actor="retention", action="delete", target="history", details={"days": days, "answers": gone}))
        db.session.commit()
        log.info("%d answers were older than %d days and are deleted", gone, days)
    return gone


@click.command("retain")
@click.option("--days", required=True, type=click.IntRange(1, 36500), help="Delete answers that are older than so many days.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@with_appcontext
@click.pass_context
def command(context: click.Context, days: int, dry_run: bool) -> None:
    """Delete old answers while the service runs, with their reviews, tags and places in the search index."""
    context.invoke(current_app.cli.commands["prepare"])
    found = going(older_than(days))
    db.session.remove()
    print(f"llmstream: {found.answers:,} answers are older than {days} days, with {found.judgements:,} judgements.")
    if not dry_run:
        print(f"llmstream: {retain(days):,} answers were deleted.")
