"""A completion in lists, and as a line of an export: for a spreadsheet, for a program, and as an example to train with."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import select

from .context import latest_usable, message, said
from .extensions import db
from .judgements import Review, Tag, TagChange, corrects
from .models import Completion, before, stored_text, turns
from .schemas import CompletionSchema, rfc3339

FIELDS = [name for name in CompletionSchema().fields if name in Completion.__table__.c]
REVIEW = ("id", "reviewer", "role", "rating", "reason", "note", "correction", "created_at")
TAG_CHANGE = ("id", "name", "change", "changed_by", "created_at")
REVIEWED = {"reviewer": "reviewer", "reason": "review_reason", "note": "review_note"}
HEADINGS = [*FIELDS, "tags", *REVIEWED.values(), "correction"]
# what a spreadsheet calculates, full width included, also behind what cannot be seen
FORMULA = re.compile(r"[\t\r\n]|[\s\u200b-\u200f\u2060-\u2069\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def shown(ids: list[int]) -> Iterator[dict[str, Any]]:
    """As the API shows them, by id: what CompletionSchema dumps, at a fifth of its cost."""
    columns = [Completion.__table__.c[name] for name in FIELDS]
    for row in db.session.execute(select(*columns).where(Completion.id.in_(ids)).order_by(Completion.id)).all():
        item = dict(zip(FIELDS, map(plain, row), strict=True))
        if item["status"] == "in_progress":
            item["response"] = stored_text(item["id"])
        yield item


def rows(ids: list[int]) -> Iterator[dict[str, Any]]:
    """The same with their reviews and tags."""
    reviews, tags = of_each(Review, REVIEW, ids), tags_of(ids)
    for item in shown(ids):
        item["reviews"] = reviews.get(item["id"], [])
        item["tags"] = tags.get(item["id"], [])
        yield item


def plain(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, datetime) else value


def of_each(table: Any, names: tuple[str, ...], ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """These columns of another table by the completion that a row is of, in the order of the first."""
    columns = [table.completion_id, *(getattr(table, name) for name in names)]
    found = db.session.execute(select(*columns).where(table.completion_id.in_(ids)).order_by(*columns[:2])).all()
    rows_of = groupby(found, itemgetter(0))
    return {key: [dict(zip(names, map(plain, row[1:]), strict=True)) for row in some] for key, some in rows_of}


def tags_of(ids: list[int]) -> dict[int, list[str]]:
    return {key: [tag["name"] for tag in found] for key, found in of_each(Tag, ("name",), ids).items()}


def as_csv(ids: list[int]) -> Iterator[str]:
    for row in rows(ids):
        told, newest_first = telling(row), row["reviews"][::-1]
        correction = next((review["correction"] for review in newest_first if review["correction"]), None)
        said = [*(told.get(name) for name in REVIEWED), correction if corrects(correction, row["response"]) else None]
        yield csv_line([*(row[name] for name in FIELDS), ", ".join(row["tags"]), *said])


def telling(row: dict[str, Any]) -> dict[str, Any]:
    """The review that the rating comes from; where there is none, the newest."""
    rated = [review for review in row["reviews"] if row["rating"] and review["rating"] == row["rating"]]
    by_reviewers = [review for review in rated if review["role"] == "reviewer"]
    return next(reversed(by_reviewers or rated or row["reviews"]), {})


def csv_line(values: list[Any]) -> str:
    """RFC 4180. Text that a spreadsheet would calculate begins with an apostrophe."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([cell(value) for value in values])
    return line.getvalue()


def cell(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return f"'{text}" if isinstance(text, str) and FORMULA.match(text) else text


def as_jsonl(ids: list[int]) -> Iterator[str]:
    """With what only this format has: who changed its tags, and when its text came."""
    changes = of_each(TagChange, TAG_CHANGE, ids)
    noted = select(Completion.id, Completion.timeline).where(Completion.id.in_(ids))
    timelines = {one: timeline for one, timeline in db.session.execute(noted)}
    for item in rows(ids):
        yield json_line(item | {"tag_changes": changes.get(item["id"], []), "timeline": timelines.get(item["id"])})


def json_line(data: dict[str, Any]) -> str:
    """One line for every reader: some take these three characters for the end of a line, too."""
    line = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return line.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n"


def as_chat(ids: list[int]) -> Iterator[str]:
    """OpenAI's format for fine-tuning. What was judged bad is no example, unless somebody wrote what is right."""
    for completion, correction, prompt in asked(ids, corrections_of(ids)):
        if correction or (completion.status == "completed" and completion.response and completion.rating != "bad"):
            untrained = [{**one, "weight": 0} if one["role"] == "assistant" else one for one in prompt]  # each has its own line
            yield json_line({"messages": [*untrained, message("assistant", correction or completion.response)]})


def as_preferences(ids: list[int]) -> Iterator[str]:
    corrections = corrections_of(ids)
    for completion, correction, prompt in asked(list(corrections), corrections):
        if completion.response and correction:
            answers = {"chosen": correction, "rejected": completion.response}
            yield json_line({"prompt": prompt, **{name: [message("assistant", text)] for name, text in answers.items()}})


def corrections_of(ids: list[int]) -> dict[int, str]:
    """The newest correction of each that has one."""
    query = select(Review.completion_id, Review.correction).where(Review.completion_id.in_(ids), Review.correction.is_not(None))
    return {completion_id: text for completion_id, text in db.session.execute(query.order_by(Review.id)).all() if text}


def asked(ids: list[int], corrections: dict[int, str]) -> Iterator[tuple[Completion, str | None, list[dict[str, str]]]]:
    """Each finished completion with its correction and the messages that were sent for it."""
    finished = Completion.id.in_(ids), Completion.status != "in_progress"
    wanted = db.session.scalars(select(Completion).where(*finished).order_by(Completion.id)).all()
    talks: dict[int, list[Completion]] = defaultdict(list)
    earlier = Completion.conversation_id.in_({one.conversation_id for one in wanted}), Completion.id <= max(ids, default=0)
    for other in db.session.scalars(select(Completion).where(*earlier).order_by(Completion.id)).all():
        talks[other.conversation_id].append(other)
    for completion in wanted:
        correction = corrections.get(completion.id)
        stands = correction if corrects(correction, completion.response) else None  # else it was taken back
        yield completion, stands, sent_for(completion, talks[completion.conversation_id])


def sent_for(completion: Completion, conversation: list[Completion]) -> list[dict[str, str]]:
    """The messages that went to the model: the system message, the earlier turns as they then were, the prompt."""
    if completion.messages:
        return completion.messages
    earlier = before(completion, turns([other for other in conversation if other.id <= completion.id]))
    usable = [turn for versions in earlier if (turn := latest_usable(versions))][completion.dropped_turns :]
    past = [part for turn in usable for part in said(turn)]
    return [*([message("system", completion.system)] if completion.system else []), *past, message("user", completion.prompt)]
