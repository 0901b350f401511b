"""Deleting one answer, a conversation, or all that a filter shows."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
from flask import Blueprint, Flask, Response, current_app, redirect, render_template, request, stream_template
from sqlalchemy import func, select
from werkzeug.exceptions import Conflict

from .access import Actor, actor
from .accounts import audit
from .ask import find
from .delivery import STREAM_HEADERS
from .extensions import db, first_line, is_passing
from .filters import Filter
from .gate import received_body
from .models import Completion, Conversation
from .removal import going, remove, remove_all, running_ids

log = logging.getLogger(__name__)
bp = Blueprint("deletion", __name__)


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
    upto = db.session.scalar(select(func.max(Completion.id))) or 0
    running = set(running_ids())  # these stay, though they may end before the deletion comes to them
    all_of_it, shown = going(chosen), request.form.get("shown", "")
    if shown != str(all_of_it.answers):
        wrong = (
            "This request deleted nothing: the number of answers is no longer the one that you were shown. A deletion may be "
            "under way already; if you did not start one, look at it again, and confirm the new number."
        )
        return render_template("delete.html", filter=chosen, going=all_of_it, wrong=wrong), 409
    if re.sub(r"[\s,.']", "", request.form.get("typed", "")) != shown:
        wrong = f"Nothing was deleted: to confirm, type the number {shown}."
        return render_template("delete.html", filter=chosen, going=all_of_it, wrong=wrong), 422
    audit("delete", "history", {"query": chosen.query(), "answers": all_of_it.answers})
    job = Job(current_app._get_current_object(), remove_all(chosen, upto, running), actor())  # type: ignore[attr-defined]
    db.session.remove()
    stream = stream_template("delete.html", filter=chosen, going=all_of_it, job=job)
    return Response(stream, mimetype="text/html", headers=STREAM_HEADERS)


class Job:
    """A deletion in the background: who leaves the page does not end it."""

    def __init__(self, app: Flask, removal: Iterator[int], who: Actor) -> None:
        self.gone, self.is_revoked = 0, False
        self.ended_early: str | None = None  # why
        self.greenlet = gevent.spawn(self._run, app, removal, who.name)
        if who.credential:  # and it ends after the part that is under way when that is revoked
            app.extensions["watch"].enter(who.credential, self, who.role)
            self.greenlet.link(lambda _: app.extensions["watch"].leave(who.credential, self))

    def kill(self, _revoked: Exception, block: bool) -> None:
        """As revocation.py calls it. Not by an exception, which could lose the count of a part that is just being committed."""
        self.is_revoked = True

    def _run(self, app: Flask, removal: Iterator[int], who: str) -> None:
        with app.app_context():
            try:
                for self.gone in removal:
                    if self.is_revoked:
                        return self._end_early(who, "the login or key behind it was revoked")
            except Exception as error:
                log.warning("a deletion failed: %s", first_line(error), exc_info=not is_passing(error))
                fault = "there was a fault; the log has the details"
                self._end_early(who, "the database took no writes" if is_passing(error) else fault)

    def _end_early(self, who: str, why: str) -> None:
        self.ended_early = why
        audit("delete ended early", "history", {"answers": self.gone, "because": why}, name=who)

    @property
    def steps(self) -> Iterator[int]:
        """How many are gone, at first often, then every few seconds."""
        pause = 0.5
        while not self.greenlet.ready():
            self.greenlet.join(pause)
            pause = min(pause * 1.3, 10)
            yield self.gone
