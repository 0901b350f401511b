"""Who there is: users, their API keys and sessions, and the audit trail of what they did."""

from __future__ import annotations

import hmac
import secrets
import unicodedata
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import gevent
from flask import has_request_context
from flask_login import UserMixin
from marshmallow import Schema, ValidationError, fields, validate
from sqlalchemy import Select, Text, delete, select, update
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship
from werkzeug.security import check_password_hash, generate_password_hash

from .access import ROLES, Actor, actor, fingerprint
from .extensions import db
from .gate import client_address
from .models import KEEP_IDS, Json, moment, now, primary_key, reference
from .schemas import storable
from .visible import HIDDEN

RESERVED = ("local", "command line")  # who everybody is without a login, and who the audit trail calls its commands


def only_seen(name: str) -> None:
    if not name.isprintable() or HIDDEN.search(name):
        raise ValidationError("Only characters that can be seen.")


A_NAME: list[Callable[[Any], Any]] = [
    storable,
    validate.Regexp(r"\S(.{0,98}\S)?\Z", error="1 to 100 characters."),
    only_seen,
]
SESSION_LASTS = timedelta(days=7)
KEY_PREFIX = "llms_"  # so that scanners for leaked secrets can find one


def alike(name: str) -> str:
    """What names that look the same have in common: no capitals, no variants of a letter (Unicode 3.13, toNFKC_Casefold)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def not_taken(name: str) -> None:
    """Refuse a name that somebody has, also one that differs in capitals or in forms of the same letters only."""
    if alike(name) in RESERVED:
        raise ValidationError("Is taken: it stands for no login, or for commands.")
    if alike(name) in map(alike, db.session.scalars(select(User.name))):
        raise ValidationError(f"There is a user {name} already, or one whose name looks like it.")


class NewUserSchema(Schema):
    name = fields.String(required=True, validate=[*A_NAME, not_taken])
    role = fields.String(load_default="user", validate=validate.OneOf(ROLES))
    password = fields.String(validate=[storable, validate.Length(min=12, max=200)])


class NewKeySchema(Schema):
    user = fields.String(required=True, validate=storable)
    name = fields.String(required=True, validate=A_NAME)
    scopes = fields.List(fields.String(validate=validate.OneOf(sorted(ROLES["admin"]))))
    days = fields.Integer(validate=validate.Range(1, 3650))


class User(db.Model):  # type: ignore[name-defined]
    __tablename__ = "users"
    id: Mapped[int] = primary_key()
    name: Mapped[str] = mapped_column(Text, unique=True)
    role: Mapped[str] = mapped_column(Text)  # one of access.ROLES
    password_hash: Mapped[str | None] = mapped_column(Text)  # scrypt; None: this one has keys only
    created_at: Mapped[datetime] = moment(default=now)
    disabled_at: Mapped[datetime | None] = moment()
    __table_args__ = (KEEP_IDS,)

    @classmethod
    def named(cls, name: str) -> User | None:
        return db.session.scalar(select(cls).where(cls.name == name))

    def set_password(self, password: str) -> None:
        self.password_hash = _in_thread(generate_password_hash, password)

    @staticmethod
    def check(user: User | None, password: str) -> bool:
        """Whether this is the user's password. Takes as long where there is no such user, so that time tells nothing."""
        known = user.password_hash if user and user.password_hash and not user.disabled_at else None
        nobodys = nobodys_hash()
        return _in_thread(check_password_hash, known or nobodys, password) and known is not None

    @classmethod
    def with_a_way_in(cls) -> Select[Any]:
        """One user, if any, who is not disabled and has a password or a key: whether a credential exists at all."""
        has_way_in = cls.password_hash.is_not(None) | select(ApiKey.id).where(ApiKey.user_id == cls.id, ApiKey.is_good()).exists()
        return select(cls.id).where(cls.disabled_at.is_(None), has_way_in).limit(1)


def _in_thread(function: Any, *arguments: Any) -> Any:
    """scrypt takes some 50 ms, and gives up the interpreter's lock meanwhile: other streams need not wait for it."""
    return gevent.get_hub().threadpool.apply(function, arguments)


@cache
def nobodys_hash() -> str:
    return str(_in_thread(generate_password_hash, secrets.token_urlsafe()))


class ApiKey(UserMixin, db.Model):  # type: ignore[name-defined]
    __tablename__ = "api_keys"
    id: Mapped[int] = primary_key()
    user_id: Mapped[int] = reference("users.id", index=True)
    name: Mapped[str] = mapped_column(Text)
    key_hash: Mapped[str] = mapped_column(Text, unique=True)
    scopes: Mapped[list[str] | None] = mapped_column(Json)  # None: all that its user may
    created_at: Mapped[datetime] = moment(default=now)
    expires_at: Mapped[datetime | None] = moment()
    revoked_at: Mapped[datetime | None] = moment()
    last_used_at: Mapped[datetime | None] = moment()
    user: Mapped[User] = relationship()
    __table_args__ = (KEEP_IDS,)

    @classmethod
    def is_good(cls) -> Any:
        return cls.revoked_at.is_(None) & (cls.expires_at.is_(None) | (cls.expires_at > now()))

    @classmethod
    def make(cls, given: dict[str, Any]) -> tuple[ApiKey, str]:
        """A new key, written down, and its secret (256 random bits), which is shown once and stored nowhere.

        `given` is what NewKeySchema takes. Raises ValidationError, also for scopes that the user does not have.
        """
        made = NewKeySchema().load(given)
        name, user, scopes, days = made.pop("name"), User.named(made["user"]), made.get("scopes"), made.get("days")
        if not user:
            raise ValidationError(f"There is no user {made['user']}.", "user")
        if beyond := set(scopes or ()) - ROLES[user.role]:
            words = f"{user.name} is {user.role}, and a key may no more than its user: not {', '.join(sorted(beyond))}."
            raise ValidationError(words, "scopes")
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        expires_at = now() + timedelta(days=days) if days else None
        key = cls(user=user, name=name, scopes=scopes, key_hash=fingerprint(secret), expires_at=expires_at)
        db.session.add(key)
        audit("key added", name, made)
        return key, secret

    @classmethod
    def find(cls, secret: str) -> ApiKey | None:
        """The good key with this secret. Only its hash reaches the database, and is compared in constant time."""
        wanted = fingerprint(secret)
        query = select(cls).join(User).where(cls.key_hash == wanted, cls.is_good(), User.disabled_at.is_(None))
        key = db.session.scalar(query.options(joinedload(cls.user)))
        return key if key and hmac.compare_digest(key.key_hash, wanted) else None

    @property
    def state(self) -> str:
        if self.revoked_at or self.user.disabled_at:
            return "revoked" if self.revoked_at else "its user is disabled"
        return "expired" if self.expires_at and self.expires_at <= now() else "good"

    def actor(self) -> Actor:
        may = ROLES[self.user.role] & frozenset(self.scopes if self.scopes is not None else ROLES["admin"])
        return Actor(self.user.name, self.user.role, may, f"key:{self.id}", f"key:{self.id}")


class Session(UserMixin, db.Model):  # type: ignore[name-defined]
    """A login in a browser. The cookie holds its token, which is stored as a hash only."""

    __tablename__ = "sessions"
    id_hash: Mapped[str] = mapped_column(Text, primary_key=True)
    user_id: Mapped[int] = reference("users.id", index=True)
    created_at: Mapped[datetime] = moment(default=now)
    expires_at: Mapped[datetime] = moment()
    revoked_at: Mapped[datetime | None] = moment()
    remote_addr: Mapped[str | None] = mapped_column(Text)
    user: Mapped[User] = relationship()
    token = ""

    @classmethod
    def is_good(cls) -> Any:
        return cls.revoked_at.is_(None) & (cls.expires_at > now())

    @classmethod
    def open(cls, user: User, remote_addr: str | None) -> Session:
        db.session.execute(delete(cls).where(cls.expires_at < now()))  # what is over is of no use to anybody
        token = secrets.token_urlsafe(32)
        session = cls(id_hash=fingerprint(token), user=user, expires_at=now() + SESSION_LASTS, remote_addr=remote_addr)
        session.token = token
        db.session.add(session)
        return session

    @classmethod
    def find(cls, token: str) -> Session | None:
        query = select(cls).join(User).where(cls.id_hash == fingerprint(token), cls.is_good(), User.disabled_at.is_(None))
        return db.session.scalar(query.options(joinedload(cls.user)))

    def get_id(self) -> str:
        """What Flask-Login puts into the cookie."""
        return self.token

    def actor(self) -> Actor:
        return Actor(self.user.name, self.user.role, ROLES[self.user.role], f"session:{self.id_hash}", f"user:{self.user_id}")


class Audit(db.Model):  # type: ignore[name-defined]
    """Who did what: logins, keys, exports, deletions. Rows are only ever added."""

    __tablename__ = "audit"
    id: Mapped[int] = primary_key()
    at: Mapped[datetime] = moment(default=now, index=True)
    actor: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    target: Mapped[str | None] = mapped_column(Text)
    remote_addr: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)
    __table_args__ = (KEEP_IDS,)


def audit(action: str, target: str, details: dict[str, Any] | None = None, name: str | None = None) -> Audit:
    """Write down who does this, and commit, with whatever else the session holds. `name` where the actor is not known yet."""
    asked = has_request_context()
    who = name if name is not None else actor().name if asked else "command line"
    where = client_address() if asked else None
    line = Audit(actor=who, action=action, target=target, remote_addr=where, details=details)
    db.session.add(line)
    db.session.commit()
    return line


def revoke_sessions(user: User) -> None:
    db.session.execute(update(Session).where(Session.user_id == user.id, Session.revoked_at.is_(None)).values(revoked_at=now()))
