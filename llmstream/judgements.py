"""What people say about answers: reviews, tags, and the views of the history that they keep."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from .extensions import db
from .models import KEEP_IDS, moment, now, primary_key, reference


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


class Tag(db.Model):  # type: ignore[name-defined]
    __tablename__ = "tags"
    completion_id: Mapped[int] = reference("completions.id", primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    tagged_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (Index("ix_tags_name", "name", "completion_id"),)


class SavedView(db.Model):  # type: ignore[name-defined]
    """A filter of the history: a URL with a name."""

    __tablename__ = "saved_views"
    id: Mapped[int] = primary_key()
    owner: Mapped[str] = mapped_column(Text, index=True)
    name: Mapped[str] = mapped_column(Text)
    query: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (KEEP_IDS,)
