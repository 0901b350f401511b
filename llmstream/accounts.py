"""Tables that are created with the first migration and filled by later features: users, keys, the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import request
from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from .auth import reviewer
from .extensions import db
from .models import KEEP_IDS, Json, moment, now, primary_key, reference


class User(db.Model):  # type: ignore[name-defined]
    __tablename__ = "users"
    id: Mapped[int] = primary_key()
    name: Mapped[str] = mapped_column(Text, unique=True)
    role: Mapped[str] = mapped_column(Text)  # 'user', 'reviewer' or 'admin'
    password_hash: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = moment(default=now)
    disabled_at: Mapped[datetime | None] = moment()
    __table_args__ = (KEEP_IDS,)


class ApiKey(db.Model):  # type: ignore[name-defined]
    __tablename__ = "api_keys"
    id: Mapped[int] = primary_key()
    user_id: Mapped[int] = reference("users.id", index=True)
    name: Mapped[str] = mapped_column(Text)
    key_hash: Mapped[str] = mapped_column(Text, unique=True)
    scopes: Mapped[list[str] | None] = mapped_column(Json)
    created_at: Mapped[datetime] = moment(default=now)
    expires_at: Mapped[datetime | None] = moment()
    revoked_at: Mapped[datetime | None] = moment()
    last_used_at: Mapped[datetime | None] = moment()
    __table_args__ = (KEEP_IDS,)


class Session(db.Model):  # type: ignore[name-defined]
    __tablename__ = "sessions"
    id_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[int] = reference("users.id", index=True)
    created_at: Mapped[datetime] = moment(default=now)
    expires_at: Mapped[datetime] = moment()
    revoked_at: Mapped[datetime | None] = moment()
    remote_addr: Mapped[str | None] = mapped_column(Text)


class Audit(db.Model):  # type: ignore[name-defined]
    """Who did what: logins, keys, exports, deletions."""

    __tablename__ = "audit"
    id: Mapped[int] = primary_key()
    at: Mapped[datetime] = moment(default=now, index=True)
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    target: Mapped[str | None] = mapped_column(Text)
    remote_addr: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)
    __table_args__ = (KEEP_IDS,)


def audit(action: str, target: str, details: dict[str, Any]) -> None:
    """Write down who does this, before it is done."""
    db.session.add(Audit(actor=reviewer(), action=action, target=target, remote_addr=request.remote_addr, details=details))
    db.session.commit()
