"""Who may do what: the rule of every route, what each role may, and whose rows an actor sees.

Roles and scopes are sets of permissions; an API key may what its user may and its scopes allow. A route without a rule is
refused, so that a new one cannot be forgotten (tests/test_access_rules.py walks the URL map).
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from flask import g, has_request_context

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
    "openapi.document": PUBLIC,  # it says what docs/api.md says, and nothing of anybody's
    "login.leave": ANYBODY,
    "login.change_password": ANYBODY,
    "login.admin": ADMIN,
    "login.add_user": ADMIN,
    "login.change_user": ADMIN,
    "login.add_key": ADMIN,
    "login.revoke_key": ADMIN,
    "chat.index": READ,  # it shows earlier conversations
    "chat.send": ASK,
    "stream.send": ASK,
    "stream.reattach": ASK,
    "stream.stop": ASK,
    "history.index": READ,
    "history.detail": READ,
    "history.neighbour": READ,
    "compare.compare": READ,
    "compare.again": ASK,
    "views.index": READ,
    "views.save": READ,
    "views.remove": READ,
    "views.remove_by_form": READ,
    "review.list_reviews": READ,
    "review.add_review": ANYBODY,  # and ASK for the thumb of who asked, JUDGE for a reviewer's word
    "review.list_tags": READ,
    "review.change_tags": JUDGE,
    "review.put_tag": JUDGE,
    "review.delete_tag": JUDGE,
    "review.name_reviewer": JUDGE,
    "queue.index": JUDGE,
    "queue.renew": JUDGE,
    "stats.index": JUDGE,
    "export.page": EXPORT,
    "export.download": EXPORT,
    "deletion.page": ADMIN,
    "deletion.confirmed": ADMIN,
    "deletion.one": ADMIN,
    "deletion.one_by_form": ADMIN,
    "deletion.conversation": ADMIN,
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
        """Whether others' rows are shown, too; a user sees what is theirs, and so does a key that may only ask."""
        return self.role != "user" and self.may != {ASK}


LOCAL = Actor("local", "admin", ROLES["admin"])  # everybody on this machine, until there is a login


def actor() -> Actor:
    """Who sent this request. Before that was looked at: AttributeError; outside of one, RuntimeError or that."""
    found: Actor = g.actor
    return found


def may(permission: str) -> bool:
    return permission in actor().may


def is_mine(row: Any) -> bool:
    """Whether the actor may see this row. One without an `owner` is anybody's who has found the way to it."""
    return actor().sees_all or getattr(row, "owner", actor().name) == actor().name


def is_own(row: Any) -> bool:
    """Whether the actor has asked this, or begun it: others' conversations are read and judged, never gone on in.

    Without a login everything is everybody's.
    """
    return actor().credential is None or row.owner == actor().name


def only() -> str | None:
    """Whose rows alone the actor may see; None: everybody's. Work that is no request sees everything."""
    return None if not has_request_context() or actor().sees_all else actor().name


def fingerprint(secret: str) -> str:
    """What is stored of a key or a session: 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
