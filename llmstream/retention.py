"""Deleting what is older than a setting allows, once an hour or by a command."""

from __future__ import annotations

import logging
from datetime import timedelta

import click
import gevent
from flask import Flask, current_app
from flask.cli import with_appcontext
from werkzeug.datastructures import MultiDict

from .accounts import Audit
from .extensions import db, first_line, is_passing
from .filters import Filter
from .models import Worker, now
from .removal import going, remove_all
from .schemas import rfc3339

log = logging.getLogger(__name__)
RETAIN_S, LOOK_S = 3600.0, 60.0


def older_than(days: int) -> Filter:
    return Filter.load(MultiDict({"to": rfc3339(now() - timedelta(days=days))}))


class Retention:
    """Deletes about once an hour what is older than `days`, in the first of all workers. None: nothing is too old."""

    def __init__(self, app: Flask, days: int | None) -> None:
        self.app, self.days = app, days

    def start(self) -> None:
        if self.days:
            gevent.spawn(self._run, self.days)

    def _run(self, days: int) -> None:
        me = self.app.extensions["generation"].recorder.me
        wait = 2.0  # by then it is known who is there; but for workers of before, where they were killed
        while True:
            gevent.sleep(wait)
            wait = LOOK_S
            try:
                with self.app.app_context():
                    if Worker.is_first(db.session.connection(), me):
                        wait = RETAIN_S
                        retain(days)
            except Exception as error:  # nothing may end this greenlet
                log.warning("the retention could not be applied: %s", first_line(error), exc_info=not is_passing(error))


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
    print(f"llmstream: older than {days} days: answers {found.answers:,}, their judgements {found.judgements:,}.")
    if not dry_run:
        print(f"llmstream: deleted: answers {retain(days):,}.")
