"""The tables: columns, named queries, verbs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, DateTime, ForeignKey, Index, Integer, Text, TypeDecorator, select, text
from sqlalchemy.orm import Mapped, mapped_column

from .access import actor
from .extensions import db


def now() -> datetime:
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """A moment, always in UTC. SQLite keeps no zone, so it is put back on the way out; PostgreSQL gives its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


Id = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True)
FACETS = (
    *("id", "created_at", "status", "request_model", "source", "owner", "rating", "reviewed_at"),
    *("time_to_first_token_ms", "duration_ms", "added_ms", "input_tokens", "output_tokens"),
)
SENT = ("created_at", "delivered_bytes")
KEEP_IDS = {"sqlite_autoincrement": True}  # an id is never given twice, else an old link shows a new row


def primary_key() -> Mapped[int]:
    return mapped_column(Id, primary_key=True)


def reference(column: str, ondelete: str = "CASCADE", **options: Any) -> Mapped[Any]:
    return mapped_column(Id, ForeignKey(column, ondelete=ondelete), **options)


def moment(**options: Any) -> Mapped[Any]:
    return mapped_column(UTCDateTime, **options)


class Conversation(db.Model):  # type: ignore[name-defined]
    __tablename__ = "conversations"
    id: Mapped[int] = primary_key()
    owner: Mapped[str] = mapped_column(Text, index=True)
    title: Mapped[str] = mapped_column(Text)  # the beginning of its oldest prompt
    created_at: Mapped[datetime] = moment(default=now)
    __table_args__ = (KEEP_IDS,)

    @classmethod
    def recent(cls, limit: int) -> Sequence[Conversation]:
        """The newest that the actor has begun, whatever else they may see."""
        mine = cls.owner == actor().name
        return db.session.scalars(select(cls).where(mine).order_by(cls.id.desc()).limit(limit)).all()


class Completion(db.Model):  # type: ignore[name-defined]
    """One prompt and its answer. What each column means to a reader stands in docs/api.md."""

    __tablename__ = "completions"
    id: Mapped[int] = primary_key()
    conversation_id: Mapped[int] = reference("conversations.id")
    owner: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)  # 'chat' or 'api'
    remote_addr: Mapped[str | None] = mapped_column(Text)
    client_name: Mapped[str | None] = mapped_column(Text)
    credential: Mapped[str | None] = mapped_column(Text)  # whose limits it counts for: 'key:7', 'user:3'; None without a login
    prompt: Mapped[str] = mapped_column(Text)
    messages: Mapped[list[dict[str, str]] | None] = mapped_column(Json)  # as they were sent, where the conversation does not tell
    system: Mapped[str | None] = mapped_column(Text)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    request_model: Mapped[str] = mapped_column(Text)
    response_model: Mapped[str | None] = mapped_column(Text)
    provider_name: Mapped[str] = mapped_column(Text)
    response: Mapped[str] = mapped_column(Text, default="")  # empty while in progress: the text is in `chunks`
    status: Mapped[str] = mapped_column(Text, default="in_progress")
    reason: Mapped[str | None] = mapped_column(Text)
    error_type: Mapped[str | None] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(Text)
    input_tokens: Mapped[int | None] = mapped_column(Integer)
    output_tokens: Mapped[int | None] = mapped_column(Integer)
    dropped_turns: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[datetime] = moment(default=now, index=True)
    time_to_first_token_ms: Mapped[int | None] = mapped_column(Integer)
    duration_ms: Mapped[int | None] = mapped_column(Integer)
    added_ms: Mapped[float | None]
    # [[byte offset, ms since created_at], ...]: long, so read only where it is shown
    timeline: Mapped[list[list[int]] | None] = mapped_column(Json, deferred=True)
    delivered_bytes: Mapped[int | None] = mapped_column(Integer)
    delivery: Mapped[str | None] = mapped_column(Text)  # 'complete', 'left' (the client went) or 'cut'
    worker_id: Mapped[str] = mapped_column(Text)  # only this worker, in this life of it (epoch), may write the answer
    epoch: Mapped[int] = mapped_column(BigInteger)
    stop_requested: Mapped[bool] = mapped_column(default=False)
    regenerated_from: Mapped[int | None] = reference("completions.id", "SET NULL", index=True)
    turn: Mapped[int | None] = mapped_column(BigInteger)  # of a regeneration: the first answer to its prompt, deleted or not
    lacks_turns: Mapped[bool] = mapped_column(default=False)  # what it was sent with was deleted since
    idempotency_key: Mapped[str] = mapped_column(Text)
    body_hash: Mapped[str] = mapped_column(Text)
    reviewing_by: Mapped[str | None] = mapped_column(Text)
    reviewing_until: Mapped[datetime | None] = moment()
    rating: Mapped[str | None] = mapped_column(Text)  # 'good' or 'bad': a reviewer's newest, else the user's newest thumb
    reviewed_at: Mapped[datetime | None] = moment()  # the newest review by a reviewer; a user's thumb is none
    _judged = text("rating IS NOT NULL OR reviewed_at IS NOT NULL")
    _live = text("status = 'in_progress'")
    _counted = text("credential IS NOT NULL")
    __table_args__ = (
        Index("ix_completions_conversation", "conversation_id", "id"),
        # every filter and figure is found in this one narrow index, without a look at the rows, which hold whole answers
        Index("ix_completions_facets", *FACETS),
        Index("ix_completions_judged", *FACETS, sqlite_where=_judged, postgresql_where=_judged),  # the same, of few
        Index("ix_completions_live", "worker_id", sqlite_where=_live, postgresql_where=_live),
        # limits.py counts by these
        Index("ix_completions_credential", "credential", *SENT, sqlite_where=_counted, postgresql_where=_counted),
        Index("ix_completions_remote_addr", "remote_addr", *SENT, sqlite_where=_counted, postgresql_where=_counted),
        Index("uq_completions_key", "owner", "idempotency_key", unique=True),
        # one answer at a time in a conversation, whichever worker is asked
        Index("uq_completions_running", "conversation_id", unique=True, sqlite_where=_live, postgresql_where=_live),
        KEEP_IDS,
    )

    @property
    def text(self) -> str:
        """The answer, or what is stored of it so far."""
        return stored_text(self.id) if self.status == "in_progress" else self.response

    @classmethod
    def among(cls, ids: Sequence[int]) -> Sequence[Completion]:
        """Those of `ids` that there are, newest first."""
        return db.session.scalars(select(cls).where(cls.id.in_(ids)).order_by(cls.id.desc())).all()

    @classmethod
    def begun_after(cls, completion_id: int | None) -> datetime | None:
        """When the first completion from this id on was begun."""
        return db.session.scalar(select(cls.created_at).where(cls.id >= completion_id).order_by(cls.id).limit(1))

    @classmethod
    def of_conversation(cls, conversation_id: int) -> Sequence[Completion]:
        query = select(cls).where(cls.conversation_id == conversation_id).order_by(cls.id)
        return db.session.scalars(query).all()

    @classmethod
    def asked_aside(cls, completion: Completion, owner: str | None, limit: int = 20) -> Sequence[Completion]:
        """The same prompt in others' conversations: asked again by a reviewer, or first. Of this owner, if one is named."""
        linked = (cls.regenerated_from == completion.id) | (cls.id == completion.regenerated_from)
        query = select(cls).where(linked, cls.conversation_id != completion.conversation_id).order_by(cls.id).limit(limit)
        return db.session.scalars(query.where(cls.owner == owner) if owner else query).all()

    @classmethod
    def by_key(cls, owner: str, key: str) -> Completion | None:
        return db.session.scalar(select(cls).where(cls.owner == owner, cls.idempotency_key == key))

    @property
    def place(self) -> int:
        """Of its turn in the conversation: all answers to one prompt have the same."""
        return self.turn or self.id

    @property
    def is_usable(self) -> bool:
        """Whether a later turn may build upon this answer."""
        return self.status == "completed" or (self.status in ("incomplete", "cancelled") and bool(self.response))


def turns(completions: Sequence[Completion]) -> list[list[Completion]]:
    """A conversation's completions by turn, oldest first: each prompt with all its regenerations, in order."""
    grouped: dict[int, list[Completion]] = {}
    for completion in completions:
        grouped.setdefault(completion.place, []).append(completion)
    return [grouped[place] for place in sorted(grouped)]


def before(completion: Completion | None, conversation: list[list[Completion]]) -> list[list[Completion]]:
    """The turns that come before this one; all of them before a new prompt."""
    return list(takewhile(lambda versions: completion not in versions, conversation))


def title_of(prompt: str) -> str:
    return prompt.strip()[:120]


class Chunk(db.Model):  # type: ignore[name-defined]
    """A piece of an answer that is being written. When it ends they are folded into `completions.response`."""

    __tablename__ = "chunks"
    completion_id: Mapped[int] = reference("completions.id", primary_key=True)
    start: Mapped[int] = mapped_column(Integer, primary_key=True)  # byte offset (UTF-8) in the answer
    text: Mapped[str] = mapped_column(Text)
    at_ms: Mapped[int] = mapped_column(Integer)  # since created_at


def stored_text(completion_id: int) -> str:
    """What is stored of an answer that was being written a moment ago: its chunks, or the whole if it has ended since."""
    pieces = select(Chunk.text).where(Chunk.completion_id == completion_id).order_by(Chunk.start)
    response = select(Completion.response).where(Completion.id == completion_id)
    return "".join(db.session.scalars(pieces)) or db.session.scalar(response) or ""


class Worker(db.Model):  # type: ignore[name-defined]
    """A worker that is alive raises its beat; whose beat stands still is gone (llmstream/heartbeat.py)."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(Text, primary_key=True)  # host:pid
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # when it started, ms: a pid is used again
    beat: Mapped[int] = mapped_column(BigInteger, default=0)

    @classmethod
    def is_first(cls, connection: Connection, me: tuple[str, int]) -> bool:
        """Whether this worker (worker_id, epoch) is to do what one of all workers has to do."""
        first = connection.execute(select(cls.id, cls.epoch).order_by(cls.id, cls.epoch).limit(1)).first()
        return first is not None and tuple(first) == me
