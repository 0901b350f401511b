"""The one transaction that makes rows equal transcripts. Each step may be repeated. Text and endings are guarded; notes
of a delivery are not, since they change nothing of the answer.

Runs in a native thread on SQLite, so it reads snapshots (`Write`) and changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from werkzeug.exceptions import TooManyRequests

from .endings import Ending, broken
from .limits import Limits, refusals
from .models import Chunk, Completion, Conversation, Worker, title_of
from .transcript import Transcript

conversations = Conversation.__table__
completions = Completion.__table__
chunks = Chunk.__table__
workers = Worker.__table__


class Taken(Exception):
    """The row cannot be made. `existing` has the same idempotency key; None: the conversation has a running answer."""

    def __init__(self, existing: Row[Any] | None) -> None:
        self.existing = existing


@dataclass
class Write:
    """A snapshot of one transcript, since its text goes on arriving meanwhile; below it what the database said."""

    transcript: Transcript
    end: int  # bytes: how far `text` goes
    text: str  # all of it where there is an ending, else what is not stored yet
    ending: Ending | None
    new_id: int | None = None
    conversation_id: int | None = None
    taken: Taken | TooManyRequests | None = None
    not_ours: Ending | None = None  # how the row ended without us


def snapshot(transcript: Transcript) -> Write | None:
    """What is to be written of this transcript now, or None."""
    if transcript.id is None:
        return Write(transcript, 0, "", None)
    if transcript.ending:
        return Write(transcript, len(transcript.text), transcript.text.decode(), transcript.ending)
    if len(transcript.text) == transcript.stored:
        return None
    end = transcript.piece_end = transcript.piece_end or len(transcript.text)
    return Write(transcript, end, transcript.text[transcript.stored : end].decode(), None)


def write(
    connection: Connection, batch: list[Write], notes: list[dict[str, Any]], worker: tuple[str, int], limits: Limits
) -> None:
    """Begin, append and finish all of `batch`. `worker` is (worker_id, epoch), ours."""
    begun = [w for w in batch if w.transcript.id is not None]
    if new := [w for w in batch if w.transcript.id is None]:
        be_known(connection, worker)
        _insert(connection, _allowed(connection, new, limits), worker)
    owned = _lock(connection, [w.transcript.id for w in begun], worker)
    for lost in (w for w in begun if w.transcript.id not in owned):
        lost.not_ours = _ending_of(connection, lost.transcript.id)
    ours = [w for w in begun if w.transcript.id in owned]
    if pieces := [_piece(w) for w in ours if not w.ending]:
        connection.execute(upsert(connection, chunks).on_conflict_do_nothing(), pieces)
    if endings := [_final(w.transcript, w.text, w.ending) for w in ours if w.ending]:
        connection.execute(update(completions).where(completions.c.id == bindparam("of")), endings)
        connection.execute(delete(chunks).where(chunks.c.completion_id.in_([row["of"] for row in endings])))
    if notes:
        connection.execute(update(completions).where(completions.c.id == bindparam("of")), notes)


def be_known(connection: Connection, worker: tuple[str, int]) -> None:
    """A row whose worker is not in `workers` counts as left behind: so ours is there before our first row."""
    row = {"id": worker[0], "epoch": worker[1], "beat": 0}
    connection.execute(upsert(connection, workers).values(row).on_conflict_do_nothing())


def _allowed(connection: Connection, batch: list[Write], limits: Limits) -> list[Write]:
    """Those that are within the limits of whoever asks; the others learn which one they met."""
    refused = refusals(connection, [new.transcript.row for new in batch], limits)
    for new, refusal in zip(batch, refused, strict=True):
        new.taken = refusal
    return [new for new in batch if not new.taken]


def _insert(connection: Connection, batch: list[Write], worker: tuple[str, int]) -> None:
    """The rows of new completions, and of their conversations if those are new too; both or, where it is taken, neither.

    Few statements for all of them: each costs a PostgreSQL's answer, and the text of others waits for this commit.
    """
    if not batch:
        return
    rows = [{**new.transcript.row, "worker_id": worker[0], "epoch": worker[1]} for new in batch]
    if first := [row for row in rows if row["conversation_id"] is None]:
        values = [{"owner": row["owner"], "title": title_of(row["prompt"]), "created_at": row["created_at"]} for row in first]
        statement = insert(conversations).returning(conversations.c.id, sort_by_parameter_order=True)
        for row, conversation_id in zip(first, connection.scalars(statement, values).all(), strict=True):
            row["conversation_id"] = conversation_id
    columns = (completions.c.id, completions.c.owner, completions.c.idempotency_key)
    made = connection.execute(upsert(connection, completions).on_conflict_do_nothing().returning(*columns), rows)
    ids = {(row.owner, row.idempotency_key): row.id for row in made}
    for new, row in zip(batch, rows, strict=True):
        new.taken, new.conversation_id = None, row["conversation_id"]
        new.new_id = ids.pop((row["owner"], row["idempotency_key"]), None)
        if new.new_id is None:
            _find(connection, new, row, worker)


def _find(connection: Connection, new: Write, row: dict[str, Any], worker: tuple[str, int]) -> None:
    """Why there was no room for this row."""
    if new.transcript.row["conversation_id"] is None:
        connection.execute(delete(conversations).where(conversations.c.id == row["conversation_id"]))
    key = (completions.c.owner == row["owner"], completions.c.idempotency_key == row["idempotency_key"])
    found = connection.execute(select(completions).where(*key)).first()
    if found and (found.worker_id, found.epoch, found.created_at) == (*worker, row["created_at"]):
        new.new_id, new.conversation_id = found.id, found.conversation_id  # our own: an uncertain commit had landed
    else:
        new.taken = Taken(found)


def _lock(connection: Connection, ids: list[int | None], worker: tuple[str, int]) -> set[int]:
    """Which of these rows are still ours to write, locked until the commit: the guard of every append and finish."""
    query = select(completions.c.id).where(
        completions.c.id.in_(ids),
        completions.c.worker_id == worker[0],
        completions.c.epoch == worker[1],
        completions.c.status == "in_progress",
    )
    return set(connection.scalars(query.order_by(completions.c.id).with_for_update())) if ids else set()


def _ending_of(connection: Connection, completion_id: int | None) -> Ending:
    """How a row ended that is not ours any more: by our own uncertain commit, by recovery, or by deletion."""
    query = select(*(completions.c[name] for name in Ending._fields)).where(completions.c.id == completion_id)
    row = connection.execute(query).first()
    return Ending(*row) if row and row.status != "in_progress" else broken("worker_lost")


def _piece(piece: Write) -> dict[str, Any]:
    transcript = piece.transcript
    return {"completion_id": transcript.id, "start": transcript.stored, "text": piece.text, "at_ms": transcript.elapsed_ms()}


def _final(transcript: Transcript, response: str, ending: Ending) -> dict[str, Any]:
    return {
        "of": transcript.id,
        **ending._asdict(),
        "response": response,
        "response_model": transcript.response_model,
        "messages": transcript.row.get("messages"),  # fewer than at the beginning, where the model could not take them all
        "dropped_turns": transcript.dropped_turns,
        "time_to_first_token_ms": transcript.first_token_ms,
        "duration_ms": transcript.duration_ms,
        "timeline": transcript.timeline,
    }


def upsert(connection: Connection, table: Any) -> Any:
    """An INSERT that can say what to do on a conflict, in the words of this database."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
