"""A credential that was revoked has effect at once: each worker looks every second, cuts what it reads and stops what it asked.

Peers have let a revoked user's stream run on to its end.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

import gevent
from sqlalchemy import Engine, select, update

from .accounts import ApiKey, Session, User
from .delivery import Revoked
from .extensions import first_line, is_passing, transact
from .generation import Generation
from .models import now

log = logging.getLogger(__name__)
LOOK_S = 1.0
NOTE_S = 60.0  # how exact `last_used_at` is: a write for each request would be dear


class Watch:
    """The requests that this worker is answering, by the credential that they showed."""

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self.engine, self.generation = engine, generation
        self._visits: defaultdict[str, dict[Any, str]] = defaultdict(dict)  # with the role that each had when it came
        self._used: set[int] = set()  # keys, since the last note
        self._noted_at = float("-inf")
        self._greenlet: gevent.Greenlet | None = None
        self._has_login: bool | None = None  # whether there is a user; None: nobody has looked yet

    def start(self) -> None:
        """Called in each worker, after the fork."""
        self._greenlet = self._greenlet or gevent.spawn(self._run)

    def enter(self, credential: str, visitor: Any, role: str) -> None:
        self._visits[credential][visitor] = role
        kind, _, value = credential.partition(":")
        if kind == "key":
            self._used.add(int(value))

    def under_way(self, credential: str) -> int:
        return len(self._visits.get(credential, ()))

    def leave(self, credential: str, visitor: Any) -> None:
        self._visits[credential].pop(visitor, None)
        if not self._visits[credential]:
            del self._visits[credential]

    def _run(self) -> None:
        while True:
            gevent.sleep(LOOK_S)
            try:
                self._look()
                self._note_use()
            except Exception as error:
                log.warning("revoked credentials could not be looked for: %s", first_line(error), exc_info=not is_passing(error))

    def has_login(self) -> bool:
        """Whether there is a user, as of the last look: requests do not wait for a database that is away."""
        if self._has_login is None or self._greenlet is None:
            self._has_login = self._any_user()
        return self._has_login

    def _any_user(self) -> bool:
        """Of any kind: the last key that expires, or the last user who is disabled, opens nothing."""
        with self.engine.connect() as connection:
            return bool(connection.scalar(select(User.id).limit(1)))

    def _look(self) -> None:
        if not self._has_login:
            self._has_login = self._any_user()
        asked = {i: t.row["credential"] for i, t in self.generation.recorder.live.items() if t.row.get("credential")}
        shown = {*self._visits, *asked.values()}
        good = self._good(shown) if shown else {}
        for credential in shown:
            for visitor, role in list(self._visits.get(credential, {}).items()):
                if good.get(credential) != role:  # with another role, other rows may be seen
                    visitor.kill(Revoked(), block=False)
        for completion_id, credential in asked.items():
            if credential not in good:
                self.generation.stop(completion_id, "revoked")

    def _note_use(self) -> None:
        if not self._used or time.monotonic() < self._noted_at + NOTE_S:
            return
        used, self._used, self._noted_at = self._used, set(), time.monotonic()
        note = update(ApiKey).where(ApiKey.id.in_(used)).values(last_used_at=now())
        with self.engine.connect() as connection:
            transact(connection, lambda c: c.execute(note))

    def _good(self, credentials: set[str]) -> dict[str, str]:
        """Those that still let somebody in, and the role of their user."""
        values: defaultdict[str, list[str]] = defaultdict(list)
        for credential in credentials:
            kind, _, value = credential.partition(":")
            values[kind].append(value)
        is_enabled = User.disabled_at.is_(None)
        keys = select(ApiKey.id, User.role).join(User).where(ApiKey.id.in_(map(int, values["key"])), ApiKey.is_good(), is_enabled)
        sessions = select(Session.id_hash, User.role).join(User).where(Session.id_hash.in_(values["session"]), is_enabled)
        users = select(User.id, User.role).where(User.id.in_(map(int, values["user"])), is_enabled)
        queries = {"key": keys, "session": sessions.where(Session.is_good()), "user": users}
        with self.engine.connect() as connection:
            found = {kind: connection.execute(query).all() for kind, query in queries.items() if values[kind]}
        return {f"{kind}:{credential}": role for kind, rows in found.items() for credential, role in rows}
