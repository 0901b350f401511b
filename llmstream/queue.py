"""`/review`: the answers of a filter that nobody has judged yet, one after the other, each for one reviewer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from flask import Blueprint, abort, render_template, request
from marshmallow import EXCLUDE, Schema, ValidationError, validate
from sqlalchemy import or_, select, update
from werkzeug.datastructures import MultiDict

from .ask import find
from .filters import Filter
from .identity import browser
from .judgements import Review, judging
from .models import Completion, before, db, now, turns
from .schemas import BIGGEST_ID, ENDED, Digits

bp = Blueprint("queue", __name__, url_prefix="/review")
READING = timedelta(minutes=2)  # how long a reviewer has an answer alone; a page that is open asks for it again and again
MANY, COUNT_S = 10_000, 0.15  # what is left to review is not counted any further, nor for longer
# on to what is older than `before`, or newer than `after`; or this very `completion`; `judged` is the one just done
PLACE = ("before", "after", "completion", "judged")
PlaceSchema = Schema.from_dict({name: Digits(validate=validate.Range(1, BIGGEST_ID)) for name in PLACE})


class Place(NamedTuple):
    """What to show: an answer, or none. `is_taken`: others read it, or all of it. `look_on`: what is older is not seen yet."""

    completion_id: int | None
    is_taken: bool = False
    look_on: int | None = None


@bp.get("")
def index() -> str:
    place = PlaceSchema().load(request.args, unknown=EXCLUDE)
    chosen = Filter.load(request.args, also=("reviewed", *PLACE))
    waiting = Filter.load(unreviewed(chosen.args))
    shown = look(waiting, place)
    completion = find(Completion, shown.completion_id) if shown.completion_id else None
    return render_template(
        "review.html",
        filter=chosen,
        place=place,
        shown=shown,
        completion=completion,
        left=left_in(waiting),
        earlier=earlier_turns(completion) if completion else [],
        last=next(iter(Review.of(place["judged"], 1)), None) if "judged" in place else None,
        **(judging(completion) if completion else {}),
    )


def unreviewed(given: MultiDict[str, str]) -> MultiDict[str, str]:
    """The same filter, of what has ended and no reviewer has judged."""
    wanted, statuses = given.copy(), given.getlist("status")
    if statuses == ["in_progress"]:
        raise ValidationError("An answer that is being written cannot be judged yet.", "status")
    wanted.setlist("status", [status for status in statuses or ENDED if status != "in_progress"])
    wanted["reviewed"] = "no"
    return wanted


def look(waiting: Filter, place: dict[str, int]) -> Place:
    """Find what to show next, and take it for this browser."""
    me = browser()
    if at := place.get("completion"):
        return Place(at, is_taken=not keep(at, me))
    if left := place.get("before") or place.get("after"):
        leave(left, me)
    if "after" in place:
        newer = waiting.after(20, place["after"])
        taken = take(newer, me)
        return Place(taken, is_taken=bool(newer) and not taken)
    before, is_taken = place.get("before"), False
    for _ in range(5):
        page = waiting.page(20, before)
        if taken := take(page.ids, me):
            return Place(taken)
        before, is_taken = page.next_before, is_taken or bool(page.ids)
        if not before:
            break
    return Place(None, is_taken, before)


def take(ids: list[int], browser: str) -> int | None:
    """The first of these that no other browser reads, taken for READING; None if all are."""
    free = set(db.session.scalars(select(Completion.id).where(Completion.id.in_(ids), is_free(browser))))
    return next((i for i in ids if i in free and keep(i, browser)), None)


def keep(completion_id: int, browser: str) -> bool:
    """Take it, or have it for longer. False if another browser was first."""
    taking = update(Completion).where(Completion.id == completion_id, is_free(browser))
    taken: Any = db.session.execute(taking.values(reviewing_by=browser, reviewing_until=now() + READING))
    db.session.commit()
    return bool(taken.rowcount)


def is_free(browser: str) -> Any:
    return or_(Completion.reviewing_by.is_(None), Completion.reviewing_by == browser, Completion.reviewing_until <= now())


def leave(completion_id: int, browser: str) -> None:
    """Let others have it."""
    own = (Completion.id == completion_id) & (Completion.reviewing_by == browser)
    db.session.execute(update(Completion).where(own).values(reviewing_by=None, reviewing_until=None))
    db.session.commit()


def left_in(waiting: Filter) -> str:
    """How many in words: exactly where that is quick."""
    count, are_all = waiting.count_for(COUNT_S, MANY + 1)
    if count > MANY:
        return f"more than {MANY:,}"
    return f"{count:,}" if are_all else f"at least {count:,}" if count else "an unknown number"


def earlier_turns(completion: Completion, limit: int = 20) -> Sequence[Completion]:
    """What was said before in this conversation, oldest first: of each turn its newest answer."""
    same = (Completion.conversation_id == completion.conversation_id) & (Completion.id < completion.id)
    nearest = db.session.scalars(select(Completion).where(same).order_by(Completion.id.desc()).limit(limit)).all()
    return [versions[-1] for versions in before(completion, turns([*reversed(nearest), completion]))]


@bp.put("/<int:completion_id>/lock")
def renew(completion_id: int) -> Any:
    """A page that is open keeps its answer. 404 if it is deleted, 409 once another browser has it."""
    find(Completion, completion_id)
    if not keep(completion_id, browser()):
        abort(409, "Another reviewer reads this answer by now.")
    return "", 204
