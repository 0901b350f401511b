"""The filters of the history: one schema, one query, shared by the list, exports, the queue and the numbers.

A page is found by walking down the ids in windows, each a short query on the narrow index that holds all that is filtered by. So
nothing depends on how a planner judges a filter, and each page is bounded in time: where a filter is so rare that the time is up
first, the page is short and says from where to look further.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlencode

from marshmallow import ValidationError, fields
from sqlalchemy import ColumnElement, and_, func, select
from werkzeug.datastructures import MultiDict

from .access import only
from .extensions import db
from .judgements import Review, Tag
from .models import Completion
from .schemas import BIGGEST_ID, FilterSchema
from .search import matching, window

PAGE_S = 0.06  # a page that is not full by then is short; with its last window and the rest it stays below 100 ms
FIRST_WINDOW, LARGEST_WINDOW = 1000, 250_000  # ids
WINDOW_S = 0.02  # windows grow until one takes about so long
SKEW = 1000  # ids follow created_at but for some that were begun at the same moment
LABELS = {"from": "From", "to": "Until", "q": "Text", "min_duration_ms": "At least ms", "max_duration_ms": "At most ms"}
VALUES = {"in_progress": "being written", "cancelled": "stopped", "none": "not rated"}  # as the pages call them


NAMES = ("from", *(name for name in FilterSchema().fields if name != "from"))  # as they stand in a URL


class Page(NamedTuple):
    """Ids, newest first. `is_short`: the time was up before the page was full; `next_before` says from where to look further."""

    ids: list[int]
    next_before: int | None
    is_short: bool = False


class Word(NamedTuple):
    """One condition in words, and the query string without it."""

    label: str
    value: str
    without: str


@dataclass(frozen=True)
class Filter:
    """`args` as they were given, each name with its values; `values` as they are meant."""

    args: MultiDict[str, str]
    values: dict[str, Any]
    only: str | None = None  # whose rows alone may be seen; no parameter says it

    @classmethod
    def load(cls, args: MultiDict[str, str], also: Sequence[str] = ()) -> Filter:
        """From a URL's parameters; those in `also` are the caller's. Empty ones do not count, since forms send them.

        Raises ValidationError.
        """
        filled = MultiDict([(name, value) for name, value in args.items(multi=True) if value])
        schema = FilterSchema()
        lists = {name for name, field in schema.fields.items() if isinstance(field, fields.List)}
        if twice := [name for name in filled if name not in lists and len(filled.getlist(name)) > 1]:
            raise ValidationError({name: ["Can be given once only."] for name in twice})
        given = MultiDict([(name, value) for name, value in filled.items(multi=True) if name not in also])
        return cls(given, schema.load({name: given.getlist(name) if name in lists else given[name] for name in given}), only())

    # As a URL

    @property
    def is_empty(self) -> bool:
        return not self.args

    def query(self, **changes: Any) -> str:
        """The query string with these parameters instead: a value, a list of values, or None for none."""
        args = {name: changes.get(name, self.args.getlist(name)) for name in dict.fromkeys((*NAMES, *changes))}
        return urlencode({name: value for name, value in args.items() if value is not None}, doseq=True)

    def words(self, **changes: Any) -> list[Word]:
        """Each condition with what removes it; `changes` are as for `query`."""
        return [
            Word(
                LABELS.get(name, name.removesuffix("_id").replace("_", " ").capitalize()),
                VALUES.get(value, value) if name in ("status", "rating") else value,
                self.query(**{**changes, name: [other for other in self.args.getlist(name) if other != value]}),
            )
            for name in NAMES
            for value in dict.fromkeys(self.args.getlist(name))
        ]

    # As conditions

    def conditions(self, low: int, high: int) -> list[ColumnElement[bool]]:
        """Conditions on the columns of Completion; those that ask other tables look only from `low` to below `high`."""
        mine = [Completion.owner == self.only] if self.only is not None else []
        return [*mine, *(self._condition(name, value, low, high) for name, value in self.values.items())]

    def _condition(self, name: str, value: Any, low: int, high: int) -> ColumnElement[bool]:
        match name:
            case "from":
                return Completion.created_at >= value
            case "to":
                return Completion.created_at < value
            case "rating":
                rated = Completion.rating.in_([rating for rating in value if rating != "none"])
                return rated | Completion.rating.is_(None) if "none" in value else rated
            case "reviewed":
                return Completion.reviewed_at.is_not(None) if value == "yes" else Completion.reviewed_at.is_(None)
            case "min_duration_ms":
                return Completion.duration_ms >= value
            case "max_duration_ms":
                return Completion.duration_ms <= value
            case "conversation_id":
                return Completion.conversation_id == value
            case "q":
                return Completion.id.in_(matching(value, low, high))
            case "tag":
                tagged = select(Tag.completion_id).where(window(Tag.completion_id, low, high))
                return and_(*(Completion.id.in_(tagged.where(Tag.name == tag)) for tag in dict.fromkeys(value)))
            case "reason":
                given = select(Review.completion_id).where(Review.reason.in_(value), window(Review.completion_id, low, high))
                return Completion.id.in_(given)
            case "model":
                return Completion.request_model.in_(value)
        column: Any = getattr(Completion, name)  # status, source, owner
        return column.in_(value)

    # As rows

    def page(self, limit: int, before: int | None = None) -> Page:
        """The newest `limit` ids below `before`, in bounded time."""
        low, high = self.reach
        high = min(high, before or high)
        ids: list[int] = []
        give_up = time.monotonic() + PAGE_S
        for bottom, top in windows(low, high):
            found = self._in(bottom, top).order_by(Completion.id.desc()).limit(limit + 1 - len(ids))
            ids += db.session.scalars(found)
            if len(ids) > limit:
                return Page(ids[:limit], ids[limit - 1])
            if bottom > low and time.monotonic() > give_up:
                return Page(ids, bottom, True)
        return Page(ids, None)

    def after(self, limit: int, after: int = 0, upto: int = BIGGEST_ID - 1) -> list[int]:
        """The oldest `limit` ids above `after` up to `upto`, ascending."""
        low, high = self.reach
        high = min(high, upto + 1)
        ids: list[int] = []
        for bottom, top in windows(max(low, after + 1), high, upwards=True):
            ids += db.session.scalars(self._in(bottom, top).order_by(Completion.id).limit(limit - len(ids)))
            if len(ids) >= limit:
                break
        return ids

    def count(self) -> int:
        """How many there are."""
        return self.count_for(math.inf)[0]

    def count_for(self, seconds: float, at_most: int | None = None) -> tuple[int, bool]:
        """How many were counted by then, and whether these are all; a count that reaches `at_most` stops there."""
        total, give_up = 0, time.monotonic() + seconds
        for bottom, top in windows(*self.reach):
            inner = self._in(bottom, top).limit(None if at_most is None else at_most - total).subquery()
            total += db.session.scalar(select(func.count()).select_from(inner)) or 0
            if (at_most is not None and total >= at_most) or (time.monotonic() > give_up and bottom > self.reach[0]):
                return total, False
        return total, True

    def in_windows(self) -> Iterator[Any]:
        """Selects of their ids, each of a part that is quickly read."""
        return (self._in(bottom, top) for bottom, top in windows(*self.reach))

    def _in(self, low: int, high: int) -> Any:
        query = select(Completion.id).where(window(Completion.id, low, high), *self.conditions(low, high))
        if "conversation_id" in self.values:
            return query
        judged = set(self.values.get("rating", ["none"])) <= {"good", "bad"} or self.values.get("reviewed") == "yes"
        # left to itself SQLite reads whole rows, or sorts all of an owner's
        return query.with_hint(Completion, f"INDEXED BY ix_completions_{'judged' if judged else 'facets'}", "sqlite")

    @cached_property
    def reach(self) -> tuple[int, int]:
        """The ids that can be meant, from the first to below the last: dates become ids by way of their index."""
        by_time = select(Completion.id).order_by(Completion.created_at).limit(1)
        asked: dict[str, Any] = {"first": select(func.min(Completion.id)), "last": select(func.max(Completion.id))}
        dates = {name: self.values[name] for name in ("from", "to") if name in self.values}
        asked |= {name: by_time.where(Completion.created_at >= date) for name, date in dates.items()}
        row = db.session.execute(select(*(query.scalar_subquery().label(name) for name, query in asked.items()))).one()._mapping
        low, high = row["first"] or 1, (row["last"] or 0) + 1
        if "from" in self.values:
            low = max(low, row["from"] - SKEW) if row["from"] else high
        if row.get("to"):
            high = min(high, row["to"] + SKEW)
        return low, max(low, high)


def windows(low: int, high: int, upwards: bool = False) -> Iterator[tuple[int, int]]:
    """Parts of the ids from `low` to below `high`, from the end down (or `upwards`), larger as long as they are quick."""
    size = FIRST_WINDOW
    while low < high:
        began = time.monotonic()
        if upwards:
            yield low, min(high, low + size)
            low += size
        else:
            yield max(low, high - size), high
            high -= size
        took = max(time.monotonic() - began, 0.0005)
        size = int(min(max(size * min(4, WINDOW_S / took), FIRST_WINDOW), LARGEST_WINDOW))
