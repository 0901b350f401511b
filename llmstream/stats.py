"""`/stats`: how the answers have been, by day and by model, for any filter of the history."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Blueprint, render_template, request
from gevent.lock import BoundedSemaphore
from marshmallow import Schema, ValidationError, fields, validate
from sqlalchemy import func, select
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import ServiceUnavailable

from .breath import breathing
from .errors import prefers_html, vary_by_accept
from .extensions import db
from .figures import Counts, Figures
from .filters import Filter
from .models import Completion, now
from .schemas import ENDED

bp = Blueprint("stats", __name__, url_prefix="/stats")
bp.after_request(vary_by_accept)

LIMITS_S = {"no": 0.7, "yes": 30.0}  # by `whole`: what is not counted by then is left out, and the page says so
DAY = timedelta(days=1)
PERIODS = {"7": 7, "30": 30, "90": 90, "365": 365, "all": None}
STEPS = {"day": 92, "week": 731, "month": 4_000_000}  # the longest period, in days, that is shown in steps of this size
MOST = 10  # reasons and tags that are shown
ALLOWED_MS = 500  # what llmstream may add to a piece of text
TURN_S = 3.0
_turns = {whole: BoundedSemaphore(1) for whole in LIMITS_S}  # one count at a time in a worker: streams need connections too


class StatsSchema(Schema):
    days = fields.String(validate=validate.OneOf(list(PERIODS)))
    by = fields.String(validate=validate.OneOf(list(STEPS)))
    whole = fields.String(load_default="no", validate=validate.OneOf(list(LIMITS_S)))


@bp.get("")
def index() -> Any:
    own = list(StatsSchema().fields)
    asked = StatsSchema().load({name: request.args[name] for name in own if request.args.get(name)})
    wanted = Filter.load(request.args, also=own)
    if "days" in asked and {"from", "to"} & set(wanted.values):
        raise ValidationError({"days": ["Cannot be given together with from or to."]})
    turn = _turns[asked["whole"]]
    if not turn.acquire(timeout=TURN_S):
        raise ServiceUnavailable("The numbers are being counted for somebody else. Try again in a few seconds.")
    try:
        report = Report(wanted, asked)
    finally:
        turn.release()
    if prefers_html():
        return render_template("stats.html", report=report, filter=report.filter, periods=PERIODS, allowed_ms=ALLOWED_MS)
    return report.dump()


class Period(NamedTuple):
    """From `start` to below `end`."""

    start: datetime
    end: datetime

    @classmethod
    def asked(cls, wanted: Filter, days: int | None) -> Period:
        """The last `days` to today; where they are None the filter's own dates, as far as there are answers."""
        today = midnight(now())
        if days:
            return cls(today - DAY * (days - 1), today + DAY)
        first = midnight(db.session.scalar(select(func.min(Completion.created_at))) or today)
        start = max(wanted.values.get("from", first), first)
        end = min(wanted.values.get("to", today + DAY), today + DAY)
        return cls(start, max(start, end))

    def steps(self, size: str) -> Iterator[Period]:
        """Its days, weeks (from Monday) or months; the first and the last may be parts."""
        start = self.start
        while start < self.end:
            day = midnight(start)
            next_month = (day.replace(day=1) + DAY * 31).replace(day=1)
            end = {"day": day + DAY, "week": day + DAY * (7 - day.weekday()), "month": next_month}[size]
            yield Period(start, min(end, self.end))
            start = end

    @property
    def days(self) -> int:
        return -((self.start - self.end) // DAY)

    @property
    def query(self) -> dict[str, str]:
        """As parameters of a filter: days, or instants where it begins or ends within one."""
        first, last = self.start, self.end - DAY
        return {
            "from": first.date().isoformat() if first == midnight(first) else first.isoformat(),
            "to": last.date().isoformat() if last == midnight(last) else self.end.isoformat(),
        }


def midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


class Report:
    """The figures of a period, by step and by model, each with the query that lists exactly its rows.

    `is_cut`: older days were asked for, but the time was up; `whole_query`, if any, takes more time.
    `days`: which of PERIODS it is, None where the filter has dates.
    """

    def __init__(self, wanted: Filter, asked: dict[str, str]) -> None:
        self.days = None if {"from", "to"} & set(wanted.values) else asked.get("days", "30")
        self.period = Period.asked(wanted, PERIODS[self.days or "all"])
        dated: dict[str, Any] = {**wanted.args.to_dict(flat=False), **self.period.query}
        self.filter = Filter.load(MultiDict(dated))
        self.undated = wanted.query(**{"from": None, "to": None, "by": asked.get("by")})
        self.chips = wanted.words(**{name: asked[name] for name in ("days", "by") if name in asked})
        self.whole_query = wanted.query(**{**asked, "whole": "yes"}) if asked["whole"] == "no" else None
        counts = Counts(self.filter, LIMITS_S[asked["whole"]])
        if counts.left_out:
            first = datetime.strptime(counts.left_out, "%Y-%m-%d").replace(tzinfo=UTC) + DAY
            self.period = self.period._replace(start=min(max(self.period.start, first), self.period.end))
        self.is_cut = bool(counts.left_out)
        self.size = asked.get("by") or next(name for name, longest in STEPS.items() if self.period.days <= longest)
        self._queries: dict[str, str | None] = {}
        self._add_up(counts)

    def _add_up(self, counts: Counts) -> None:
        steps = list(self.period.steps(self.size))
        starts = [midnight(step.start).strftime("%Y-%m-%d") for step in steps] or ["9999"]
        by_step, by_model, total = [Figures() for _ in steps], defaultdict[str, Figures](Figures), Figures()
        for (day, model), figures in breathing(counts.figures.items()):
            if day >= starts[0]:
                by_step[bisect_right(starts, day) - 1].absorb(figures)
                by_model[model].absorb(figures)
        for figures in by_model.values():
            total.absorb(figures)
        self.total = self._group(total, self.period)
        self.steps = [self._group(figures, step) for step, figures in breathing(zip(steps, by_step, strict=True))]
        models = ({**self._group(figures, self.period, model=[model]), "model": model} for model, figures in by_model.items())
        self.models = sorted(breathing(models), key=lambda group: -group["answers"])
        self.reasons = self._most_frequent("reason", counts.reasons, starts[0])
        self.tags = self._most_frequent("tag", counts.tags, starts[0])

    def _most_frequent(self, name: str, said: Counter[tuple[str, str]], first_day: str) -> list[dict[str, Any]]:
        totals: Counter[str] = Counter()
        for (day, word), n in said.items():
            totals[word] += n * (day >= first_day)
        known = ((word, n, self.query(self.total, **{name: [word]})) for word, n in totals.most_common() if n)
        return list(islice(({name: word, "answers": n, "query": query} for word, n, query in known if query), MOST))

    def _group(self, figures: Figures, period: Period, **only: Any) -> dict[str, Any]:
        return {**period.query, **figures.dump(), "query": self.query(period.query, **only, status=ENDED)}

    def query(self, group: dict[str, Any], **only: list[str]) -> str | None:
        """What lists the rows of a group that have these values too; None where the filter leaves none."""
        dates = {name: group[name] for name in ("from", "to")}
        key = repr(only)
        if key not in self._queries:
            self._queries[key] = self._narrowed(only)
        return (rest := self._queries[key]) and f"{urlencode(dates)}&{rest}"

    def _narrowed(self, only: dict[str, list[str]]) -> str | None:
        changes: dict[str, Any] = {"from": None, "to": None}
        for name, values in only.items():
            given = self.filter.values.get(name, [])
            changes[name] = [*given, *values] if name == "tag" else [value for value in values if value in given or not given]
            if not changes[name]:
                return None
        return self.filter.query(**changes)

    def dump(self) -> dict[str, Any]:
        """docs/api.md, "Numbers"."""
        lists = {"steps": self.steps, "models": self.models, "reasons": self.reasons, "tags": self.tags}
        return {**self.period.query, "by": self.size, "is_complete": not self.is_cut, "total": self.total, **lists}

    @property
    def period_in_words(self) -> str:
        first, last = (f"{day:%-d %b %Y}" for day in (self.period.start, self.period.end - timedelta(microseconds=1)))
        return "No day" if not self.period.days else first if first == last else f"{first} to {last}"

    def label(self, step: dict[str, Any]) -> str:
        """A step for people: a day, the Monday of a week, a month."""
        first = datetime.fromisoformat(step["from"])
        return first.strftime("%b %Y" if self.size == "month" else "%-d %b %Y" if self.period.days > 300 else "%a %-d %b")
