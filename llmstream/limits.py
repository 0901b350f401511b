"""How much one key or user, and one address, may ask for. Counted from `completions`, so right over workers and machines.

Requests and running answers are counted inside the transaction that would store the next one, one such transaction at a time.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, text, tuple_
from werkzeug.exceptions import TooManyRequests

from .models import Completion, now

completions = Completion.__table__
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
COUNTED = ("credential", "remote_addr")
Who = tuple[str, str]  # one of COUNTED, and its value


class Limits(NamedTuple):
    per_minute: int
    at_once: int
    bytes_per_day: int


def refusals(connection: Connection, rows: list[dict[str, Any]], limits: Limits) -> list[TooManyRequests | None]:
    """For each row that is about to be inserted whether it is one too many. Without a login (no credential) none is."""
    counted = [[(name, row[name]) for name in COUNTED if row.get("credential") and row[name]] for row in rows]
    everybody = sorted({who for several in counted for who in several})
    if everybody and connection.dialect.name == "postgresql":
        for name, value in everybody:  # in order, so that no two wait for each other; SQLite has one writer anyway
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:who))"), {"who": f"limits {name} {value}"})
    ours = [(row["owner"], row["idempotency_key"]) for row in rows]
    others = tuple_(completions.c.owner, completions.c.idempotency_key).not_in(ours)  # a commit of ours may have landed
    asked = Counter({who: _in_last_minute(connection, who, others) for who in everybody})
    running = Counter({who: _running(connection, who, others) for who in everybody})
    found: list[TooManyRequests | None] = []
    for several in counted:
        found.append(next((no for who in several if (no := _one_more(asked[who], running[who], limits))), None))
        if found[-1] is None:
            asked.update(several)
            running.update(several)
    return found


def _in_last_minute(connection: Connection, who: Who, others: Any) -> int:
    recent = (completions.c[who[0]] == who[1], completions.c.credential.is_not(None), completions.c.created_at > now() - MINUTE)
    return connection.scalar(select(func.count()).where(*recent, others)) or 0


def _running(connection: Connection, who: Who, others: Any) -> int:
    live = (text("status = 'in_progress'"), completions.c[who[0]] == who[1], completions.c.credential.is_not(None))
    running = select(func.count()).select_from(completions).where(*live, others)
    # left to itself SQLite reads all that this one ever asked; the index is of few, and wants its condition word for word
    return connection.scalar(running.with_hint(completions, "INDEXED BY ix_completions_live", "sqlite")) or 0


def _one_more(asked: int, running: int, limits: Limits) -> TooManyRequests | None:
    if running >= limits.at_once:
        return TooManyRequests(f"At most {limits.at_once} answers at a time. Wait for one of them to end.", retry_after=5)
    if asked >= limits.per_minute:
        return TooManyRequests(f"At most {limits.per_minute} prompts a minute. Try again in a minute.", retry_after=60)
    return None


def check_bytes(connection: Connection, credential: str, remote_addr: str | None, limits: Limits) -> None:
    """Raises TooManyRequests where this credential or address was sent so much in the last 24 hours that no more may be."""
    for name, value in zip(COUNTED, (credential, remote_addr), strict=True):
        if not value:
            continue
        recent = (completions.c[name] == value, completions.c.credential.is_not(None), completions.c.created_at > now() - DAY)
        sent = connection.scalar(select(func.sum(completions.c.delivered_bytes)).where(*recent)) or 0
        if sent >= limits.bytes_per_day:
            words = f"At most {limits.bytes_per_day:,} bytes of answers in 24 hours. Try again later."
            raise TooManyRequests(words, retry_after=3600)
