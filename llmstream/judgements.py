"""What people say about answers: reviews, tags, and the views of the history that they keep."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import gevent
from sqlalchemy import Connection, Index, Text, delete, func, insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.exceptions import Conflict, NotFound

from .extensions import BUSY_RETRY_S, db, transact
from .models import KEEP_IDS, Completion, moment, now, primary_key, reference
from .schemas import BIGGEST_ID

T = TypeVar("T")
RECENT = 2000  # so many rows, the newest, tell which reasons and tags are used most
SAID = ("rating", "reason", "note", "correction")
REASONS = ["wrong fact", "made up", "does not answer the question", "incomplete", "unsafe", "wrong tone", "too long", "helpful"]


class Review(db.Model):  # type: ignore[name-defined]
    """One judgement of one answer. Append-only: a later one stands beside it, never over it."""

    __tablename__ = "reviews"
    id: Mapped[int] = primary_key()
    completion_id: Mapped[int] = reference("completions.id", index=True)
    reviewer: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text)  # 'reviewer', or 'user' for a thumb from the chat page
    rating: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str | None] = mapped_column(Text)
    correction: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (Index("ix_reviews_reason", "reason", "completion_id"), KEEP_IDS)

    @classmethod
    def of(cls, completion_id: int, limit: int, before: int | None = None) -> Sequence[Review]:
        """Newest first."""
        query = select(cls).where(cls.completion_id == completion_id).order_by(cls.id.desc()).limit(limit)
        return db.session.scalars(query.where(cls.id < before) if before else query).all()

    @classmethod
    def correction_of(cls, completion: Completion) -> str | None:
        """The newest, unless it was taken back."""
        newest = select(cls.correction).where(cls.completion_id == completion.id, cls.correction.is_not(None))
        found = db.session.scalar(newest.order_by(cls.id.desc()).limit(1))
        return found if corrects(found, completion.response) else None

    @classmethod
    def ratings(cls, completion_ids: Sequence[int]) -> dict[int, dict[str, str | None]]:
        """Of each of these, by role: the newest rating by a reviewer and the user's newest thumb; None where there is none."""
        by_reviewer, by_user = newest_ratings(Completion.id)
        query = select(Completion.id, by_reviewer.label("reviewer"), by_user.label("user"))
        rows = db.session.execute(query.where(Completion.id.in_(completion_ids)))
        return {row.id: {"reviewer": row.reviewer, "user": row.user} for row in rows}

    @classmethod
    def usual_reasons(cls, limit: int = 12) -> list[str]:
        """Suggestions: the reasons given most often of late, then some that nobody has used yet."""
        recent = select(cls.reason).order_by(cls.id.desc()).limit(RECENT).subquery()
        return list(dict.fromkeys([*most_frequent(recent.c.reason, limit), *REASONS]))[:limit]


class Tag(db.Model):  # type: ignore[name-defined]
    __tablename__ = "tags"
    completion_id: Mapped[int] = reference("completions.id", primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    tagged_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (Index("ix_tags_name", "name", "completion_id"),)

    @classmethod
    def of(cls, completion_id: int) -> Sequence[Tag]:
        return db.session.scalars(select(cls).where(cls.completion_id == completion_id).order_by(cls.name)).all()

    @classmethod
    def usual(cls, limit: int = 20) -> list[str]:
        recent = select(cls.name).order_by(cls.completion_id.desc()).limit(RECENT).subquery()
        return most_frequent(recent.c.name, limit)


class TagChange(db.Model):  # type: ignore[name-defined]
    """A tag that somebody gave or took away. Append-only: what a tag was stays known when it is gone."""

    __tablename__ = "tag_changes"
    id: Mapped[int] = primary_key()
    completion_id: Mapped[int] = reference("completions.id", index=True)
    name: Mapped[str] = mapped_column(Text)
    change: Mapped[str] = mapped_column(Text)  # 'added' or 'removed'
    changed_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (KEEP_IDS,)

    @classmethod
    def of(cls, completion_id: int, limit: int = 1000) -> Sequence[TagChange]:
        """Newest first."""
        query = select(cls).where(cls.completion_id == completion_id).order_by(cls.id.desc()).limit(limit)
        return db.session.scalars(query).all()


class SavedView(db.Model):  # type: ignore[name-defined]
    """A filter of the history: a URL with a name."""

    __tablename__ = "saved_views"
    id: Mapped[int] = primary_key()
    owner: Mapped[str] = mapped_column(Text, index=True)
    name: Mapped[str] = mapped_column(Text)
    query: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (KEEP_IDS,)

    @classmethod
    def of(cls, owner: str) -> Sequence[SavedView]:
        return db.session.scalars(select(cls).where(cls.owner == owner).order_by(cls.name, cls.id)).all()


def most_frequent(column: Any, limit: int) -> list[str]:
    query = select(column).where(column.is_not(None)).group_by(column).order_by(func.count().desc(), column).limit(limit)
    return list(db.session.scalars(query))


def corrects(correction: str | None, answer: str) -> bool:
    """Whether it says something else: one that says what the answer says takes back those before it."""
    return bool(correction) and correction != re.sub(r"\r\n?", "\n", answer)  # a form has LF only


def judging(completion: Completion) -> dict[str, Any]:
    """What templates/_judge.html shows: the newest judgements and changes of tags, the tags, and what may be suggested."""
    reviews = Review.of(completion.id, 50)
    said: list[Any] = [*reviews, *TagChange.of(completion.id, 50)]
    return {
        "reviews": reviews,
        "said": sorted(said, key=lambda one: one.created_at, reverse=True)[:50],
        "correction": Review.correction_of(completion),
        "corrects": corrects,
        "tags": Tag.of(completion.id),
        "reasons": Review.usual_reasons(),
        "usual_tags": Tag.usual(),
    }


def judge(completion_id: int, reviewer: str, role: str, said: dict[str, str | None]) -> tuple[int, bool]:
    """Add a review; the completion's `rating` and `reviewed_at` follow in the same transaction.

    :param said: rating, reason, note, correction; what is left out was not said
    :return: its id, and whether it is new: what this role's newest review says already is not said again
    """
    review = {"completion_id": completion_id, "reviewer": reviewer, "role": role}
    review |= {name: said.get(name) or None for name in SAID}

    def add(connection: Connection) -> tuple[int, bool]:
        newest = connection.execute(newest_by(completion_id, role, *Review.__table__.c)).mappings().first()
        if newest and all(newest[name] == value for name, value in review.items()):
            return newest["id"], False
        added = connection.execute(insert(Review).values(review).returning(Review.id)).scalar_one()
        connection.execute(update(Completion).where(Completion.id == completion_id).values(verdict(completion_id)))
        return added, True

    return with_finished(completion_id, add)


def verdict(completion_id: int) -> dict[str, Any]:
    """What the reviews come to: the newest rating by a reviewer, else the user's newest thumb; when a reviewer last judged."""
    reviewed_at = newest_by(completion_id, "reviewer", Review.created_at).scalar_subquery()
    return {"rating": func.coalesce(*newest_ratings(completion_id)), "reviewed_at": reviewed_at}


def newest_ratings(completion_id: Any) -> tuple[Any, Any]:
    """By a reviewer, who may have judged without one since, and by the user, who may have taken it back."""
    by_reviewer = newest_by(completion_id, "reviewer", Review.rating).where(Review.rating.is_not(None))
    return by_reviewer.scalar_subquery(), newest_by(completion_id, "user", Review.rating).scalar_subquery()


def newest_by(completion_id: Any, role: str, *columns: Any) -> Any:
    query = select(*columns).where(Review.completion_id == completion_id, Review.role == role)
    return query.order_by(Review.id.desc()).limit(1)


def set_tag(completion_id: int, name: str, by: str, is_wanted: bool) -> bool:
    """Give a tag, or take it away. Whether that changed anything."""

    def change(connection: Connection) -> bool:
        this = Tag.completion_id == completion_id, Tag.name == name
        if bool(connection.scalar(select(Tag.name).where(*this))) == is_wanted:
            return False
        given = insert(Tag).values(completion_id=completion_id, name=name, tagged_by=by)
        connection.execute(given if is_wanted else delete(Tag).where(*this))
        noted = {"completion_id": completion_id, "name": name, "change": "added" if is_wanted else "removed", "changed_by": by}
        connection.execute(insert(TagChange).values(noted))
        return True

    return with_finished(completion_id, change)


def with_finished(completion_id: int, work: Callable[[Connection], Any]) -> Any:
    """Run `work` in one short transaction that holds this row, so that judgements of one answer come one after the other.

    Raises NotFound, and Conflict while the answer is being written.
    """

    def transaction(connection: Connection) -> tuple[str | None, Any]:
        row = select(Completion.status).where(Completion.id == completion_id).with_for_update(key_share=True)
        status = connection.scalar(row)
        return status, work(connection) if status not in (None, "in_progress") else None

    status, value = committed(transaction) if completion_id <= BIGGEST_ID else (None, None)
    if not status:
        raise NotFound(f"There is no completion {completion_id}. Nothing was saved.")
    if status == "in_progress":
        raise Conflict("It is still being written, and cannot be judged or tagged yet. Nothing was saved; try again at its end.")
    return value


def committed(work: Callable[[Connection], T]) -> T:
    """`transact`, tried again for a while where another process writes to SQLite."""
    db.session.rollback()  # no second connection is held meanwhile
    give_up = time.monotonic() + BUSY_RETRY_S
    while True:
        try:
            with db.engine.connect() as connection:
                return transact(connection, work)
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
        gevent.sleep(0.02)
