"""Who may do what: the rule of every route, what each role may, and whose rows an actor sees.

Roles and scopes are sets of permissions; an API key may what its user may and its scopes allow. A route without a rule is
refused, so that a new one cannot be forgotten (tests/test_access_rules.py walks the URL map).
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from flask import g
from sqlalchemy import ColumnElement, true

ASK, READ, JUDGE, EXPORT, ADMIN = "ask", "read", "judge", "export", "admin"
ROLES = {
    "user": frozenset({ASK, READ}),
    "reviewer": frozenset({ASK, READ, JUDGE, EXPORT}),
    "admin": frozenset({ASK, READ, JUDGE, EXPORT, ADMIN}),
}
PUBLIC = "public"  # no login needed
ANYBODY = "anybody"  # whoever has a login
RULES = {
    "static": PUBLIC,
    "login.form": PUBLIC,
    "login.enter": PUBLIC,
    "login.leave": ANYBODY,
    "login.admin": ADMIN,
    "login.add_user": ADMIN,
    "login.change_user": ADMIN,
    "login.add_key": ADMIN,
    "login.revoke_key": ADMIN,
    "chat.index": ASK,
    "chat.send": ASK,
    "stream.send": ASK,
    "stream.reattach": ASK,
    "stream.stop": ASK,
    "history.index": READ,
    "history.detail": READ,
}


class Actor(NamedTuple):
    """Whoever sent this request. Without a login both of the last are None.

    `credential` is what was shown, "key:<id>" or "session:<hash>": when it is revoked, its streams end. `counted_as` is whose
    limits count, "key:<id>" or "user:<id>", since anybody may log in twice.
    """

    name: str
    role: str
    may: frozenset[str]
    credential: str | None = None
    counted_as: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether others' rows are shown, too; a user sees what is theirs."""
        return self.role != "user"


LOCAL = Actor("local", "admin", ROLES["admin"])  # everybody on this machine, until there is a login


def actor() -> Actor:
    """Who sent this request. Outside of one, or before it was looked at: nobody (LookupError)."""
    try:
        found: Actor = g.actor
    except AttributeError:
        raise LookupError("nobody has looked yet at who sent this request") from None
    return found


def may(permission: str) -> bool:
    return permission in actor().may


def is_mine(row: Any) -> bool:
    """Whether the actor may see this row (something with an `owner`)."""
    return actor().sees_all or row.owner == actor().name


def mine(owner: Any) -> ColumnElement[bool]:
    """The condition on a column `owner` that leaves the rows that the actor may see."""
    return true() if actor().sees_all else owner == actor().name


def fingerprint(secret: str) -> str:
    """What is stored of a key or a session: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
