"""Counting answers by day and model, fast enough for a million: the database packs, Python adds up.

Each answer becomes five letters of a string: status, rating, and three times in ms, each to two digits. A database makes such
strings quicker than groups, and Python counts letters in C. Counts of letters add up, so days make weeks and models make totals,
percentiles too; these are at most 5 % off, and exact below 100 ms.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import gevent
from flask import current_app
from sqlalchemy import func, literal_column, select

from .extensions import db
from .filters import SKEW, Filter
from .judgements import Review, Tag
from .models import Completion
from .search import window

WINDOW = 10_000  # ids: a few milliseconds for the database, two for Python
AT_ONCE = 2  # windows: SQLite reads in native threads, PostgreSQL in a process for each connection
NARROW = ("INDEXED BY ix_completions_facets", "sqlite")  # it has all that is counted
NONE, FIRST, DIGITS = 40, 100, range(7)  # the letter of no time; that of 0 ms; how many digits are dropped at most
STATUSES = {"completed": "c", "cancelled": "s", "incomplete": "i", "failed": "f", "in_progress": "p"}
RATINGS = {"good": "g", "bad": "b"}
TOKENS = ("input_tokens", "output_tokens")
TIMES = ("time_to_first_token_ms", "duration_ms", "added_ms")


@dataclass
class Figures:
    """What is known of some answers. `tokens` lacks what nobody counted."""

    letters: list[Counter[str]] = field(default_factory=lambda: [Counter() for _ in range(2 + len(TIMES))])
    tokens: Counter[str] = field(default_factory=Counter)
    longest_added_ms: float | None = None

    def add(self, letters: list[str] | list[Counter[str]], tokens: Mapping[str, Any], added: float | None) -> None:
        for counter, more in zip(self.letters, letters, strict=True):
            counter.update(more)
        self.tokens.update({name: int(more) for name, more in tokens.items() if more is not None})
        self.longest_added_ms = max((ms for ms in (self.longest_added_ms, added) if ms is not None), default=None)

    def absorb(self, other: Figures) -> None:
        self.add(other.letters, other.tokens, other.longest_added_ms)

    def dump(self) -> dict[str, Any]:
        """docs/api.md, "Numbers"."""
        statuses = {status: self.letters[0][letter] for status, letter in STATUSES.items()}
        answers = sum(statuses.values()) - statuses["in_progress"]
        broken = statuses["failed"] + statuses["incomplete"]
        times = {name: percentiles(letters) for name, letters in zip(TIMES, self.letters[2:], strict=True)}
        times["added_ms"]["max"] = self.longest_added_ms
        return {
            "answers": answers,
            **statuses,
            "failed_or_cut": broken,
            "share_failed_or_cut": broken / answers if answers else None,
            **{rating: self.letters[1][letter] for rating, letter in RATINGS.items()},
            **{name: self.tokens.get(name) for name in TOKENS},
            **times,
        }


def percentiles(letters: Counter[str]) -> dict[str, Any]:
    """The time that half of the answers kept to, and the one that 95 % did; None where no answer has one."""
    known = sorted((ord(letter), n) for letter, n in letters.items() if ord(letter) != NONE)
    upto = list(accumulate(n for _, n in known))
    total = upto[-1] if upto else 0

    def kept_to_by(percent: int) -> int | None:
        return milliseconds(known[bisect_left(upto, total * percent / 100)][0]) if total else None

    return {"count": total, "p50": kept_to_by(50), "p95": kept_to_by(95)}


def milliseconds(letter: int) -> int:
    """The middle of all times that have this letter."""
    number = letter - FIRST
    dropped = max(0, (number - 10) // 90)
    return int((number - 90 * dropped) * 10**dropped + 10**dropped // 2)


class Counts:
    """What was counted, by day (YYYY-MM-DD, UTC): figures by model, and how often each reason and tag was given.

    `left_out` is the newest day that could not be counted whole in the time given, None where all were.
    """

    def __init__(self, filter_: Filter, limit_s: float) -> None:
        self.figures: defaultdict[tuple[str, str], Figures] = defaultdict(Figures)
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.tags: Counter[tuple[str, str]] = Counter()
        self.left_out: str | None = None
        self._filter, self._give_up = filter_, time.monotonic() + limit_s
        self._low, high = filter_.reach
        self._windows = iter([(max(self._low, top - WINDOW), top) for top in range(high, self._low, -WINDOW)])
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        greenlets = [gevent.spawn(self._work, app) for _ in range(AT_ONCE)]
        try:
            gevent.joinall(greenlets, raise_error=True)
        finally:
            gevent.killall(greenlets)
        self._leave_out()

    def _work(self, app: Any) -> None:
        with app.app_context():
            while time.monotonic() < self._give_up and (ids := next(self._windows, None)):
                self._count(*ids)

    def _count(self, low: int, high: int) -> None:
        """Rows whose ids lie from `low` to below `high`."""
        within = [window(Completion.id, low, high), *self._filter.conditions(low, high)]
        day = utc_day(Completion.created_at)
        tokens = [func.sum(getattr(Completion, name)) for name in TOKENS]
        counted = select(day, Completion.request_model, func.max(Completion.added_ms), letters(), *tokens)
        counted = counted.where(*within).group_by(day, Completion.request_model)
        if "conversation_id" not in self._filter.values:  # its few rows have an index of their own
            counted = counted.with_hint(Completion, *NARROW)
        for on, model, added, packed, *sums in db.session.execute(counted):
            size = 2 + len(TIMES)
            given = dict(zip(TOKENS, sums, strict=True))
            self.figures[str(on), model].add([packed[i::size] for i in range(size)], given, added)
        for source, name, totals in ((Review, Review.reason, self.reasons), (Tag, Tag.name, self.tags)):
            said = select(day, name, func.count(source.completion_id.distinct())).join_from(source, Completion)
            said = said.where(name.is_not(None), window(source.completion_id, low, high), *within).group_by(day, name)
            totals.update({(str(on), word): n for on, word, n in db.session.execute(said)})

    def _leave_out(self) -> None:
        """Where the time was up: the day of the newest answer that was not counted, and what is older."""
        if not (left := next(self._windows, None)):
            return
        last = db.session.scalar(select(func.max(Completion.id)).where(window(Completion.id, self._low, left[1])))
        if last is None:
            return
        older = window(Completion.id, last - SKEW, last + 1)
        newest = db.session.scalar(select(utc_day(func.max(Completion.created_at))).where(older))
        self.left_out = str(newest) if newest else None


def utc_day(moment: Any) -> Any:
    return func.substr(moment, 1, 10) if is_sqlite() else func.date(func.timezone("UTC", moment))


def letters() -> Any:
    """The letters of all rows of a group, one row after another."""
    codes = [code("status", STATUSES), code("rating", RATINGS), *(digits(name) for name in TIMES)]
    one = f"char({', '.join(codes)})" if is_sqlite() else " || ".join(f"chr({code})" for code in codes)
    return func.aggregate_strings(literal_column(one), "")


def code(column: str, values: dict[str, str]) -> str:
    whens = " ".join(f"WHEN '{value}' THEN {ord(letter)}" for value, letter in values.items())
    return f"CASE completions.{column} {whens} ELSE {NONE} END"


def digits(column: str) -> str:
    """A time in two digits: 0, 1, ... 99, 100, 110, ... 990, 1000, 1100, ..."""
    ms = f"completions.{column}" if column != "added_ms" else "CAST(completions.added_ms AS INTEGER)"
    whens = " ".join(f"WHEN {ms} < {10 ** (n + 2)} THEN {ms} / {10**n} + {FIRST + 90 * n}" for n in DIGITS)
    return f"CASE {whens} WHEN {ms} IS NOT NULL THEN {FIRST + 90 * len(DIGITS) + 9} ELSE {NONE} END"


def is_sqlite() -> bool:
    return db.engine.dialect.name == "sqlite"
