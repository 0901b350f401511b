"""From a validated request to an answer that is being written: what every way of asking (`/stream`, the form) has in common."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from typing import Any, NamedTuple

import gevent
from flask import abort, current_app, request
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import Conflict

from .access import ADMIN, actor, is_mine, is_own, may
from .context import Context, context_for, message
from .errors import Unprocessable, conversation_busy
from .gate import client_address, received_body
from .generation import Generation
from .limits import check_bytes
from .models import Completion, Conversation, before, db, now, turns
from .schemas import BIGGEST_ID
from .storage import Taken
from .transcript import Transcript

STOP_WAIT_S = 1.0
MOST_ANSWERS, MOST_CHARACTERS = 1000, 8_000_000  # of a conversation, which is read as a whole for each prompt and page of it


class Asked(NamedTuple):
    """The transcript of the answer; `is_new` is False where an Idempotency-Key brought back an earlier one."""

    transcript: Transcript
    is_new: bool


def generation() -> Generation:
    return current_app.extensions["generation"]


def json_object(example: str) -> dict[str, Any]:
    """The body of the request, which must be a JSON object such as `example`. Aborts with 400, 415 or 422."""
    if not request.is_json:
        abort(415, "Send JSON, with the header Content-Type: application/json.")
    try:
        body = json.loads(received_body().decode())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        abort(400, f"The body is not JSON: {error}.")
    except (ValueError, RecursionError):
        abort(400, "The body nests too deep, or has a number of too many digits.")
    if not isinstance(body, dict):
        raise Unprocessable({"body": [f"Must be a JSON object, such as {example}."]})
    return body


def ask(fields: dict[str, Any], source: str, key: str | None = None) -> Asked:
    """Store the prompt and start its answer. Aborts with 404, 409, 422, 429 or 503."""
    body_hash = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    if key and (earlier := Completion.by_key(actor().name, key)):
        if earlier.error_type != "not_started":
            return repeat(earlier.id, earlier.body_hash, body_hash)
        earlier.idempotency_key = secrets.token_urlsafe(16)  # its commit came too late and the model was not asked: now it is
        db.session.commit()
    try:
        row, messages = prepare(fields)
    except Conflict:
        if key and (twin := Completion.by_key(actor().name, key)):  # the same request, sent twice at once
            return repeat(twin.id, twin.body_hash, body_hash)
        raise
    row |= {
        "owner": actor().name,
        "credential": actor().counted_as,
        "source": source,
        "remote_addr": client_address(),
        "client_name": str(request.user_agent)[:200] or None,
        "idempotency_key": key or secrets.token_urlsafe(16),
        "body_hash": body_hash,
        "created_at": now(),
    }
    try:
        if row["credential"]:
            check_bytes(db.session.connection(), row["credential"], row["remote_addr"], generation().recorder.limits)
        db.session.remove()  # no connection is held while the answer is awaited
        return Asked(generation().start(row, messages, row["parameters"]), True)
    except IntegrityError:
        for model, its_id in ((Completion, row["regenerated_from"]), (Conversation, row["conversation_id"])):
            if its_id:
                find(model, its_id)  # it may have been deleted meanwhile
        raise
    except Taken as taken:
        if taken.existing is None:
            raise conversation_busy() from None
        return repeat(taken.existing.id, taken.existing.body_hash, body_hash)


def repeat(completion_id: int, its_hash: str, body_hash: str) -> Asked:
    if its_hash != body_hash:
        raise Unprocessable({"Idempotency-Key": ["Was used before with another body."]})
    db.session.remove()
    return Asked(follow(completion_id), False)


def follow(completion_id: int) -> Transcript:
    """The transcript of this completion, or 404."""
    if not actor().sees_all:
        find(Completion, completion_id)
        db.session.remove()
    transcript = generation().follow(completion_id) if completion_id <= BIGGEST_ID else None
    return transcript or abort(404, f"There is no completion {completion_id}.")


def stop_answer(completion_id: int) -> Completion:
    """Stop an answer on whichever worker writes it; wait up to STOP_WAIT_S for its end. Gives the row as it is then."""
    if not is_own(find(Completion, completion_id)) and not may(ADMIN):
        abort(403, f"Completion {completion_id} is somebody else's answer. It can be stopped by who asked, or by an admin.")
    if completion_id not in generation().recorder.live:  # then its own worker learns of it by its poll
        running = (Completion.id == completion_id) & (Completion.status == "in_progress")
        db.session.execute(update(Completion).where(running).values(stop_requested=True))
        db.session.commit()
    generation().stop(completion_id)
    give_up = time.monotonic() + STOP_WAIT_S
    db.session.rollback()  # else the session shows what it has seen before
    while (completion := find(Completion, completion_id)).status == "in_progress" and time.monotonic() < give_up:
        db.session.rollback()  # the same; and no connection is held meanwhile
        gevent.sleep(0.05)
    return completion


def prepare(fields: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The row and the messages of a prompt: what it continues, what it repeats, what still fits.

    Who asks another's prompt again begins a conversation of their own with it, in which the messages are kept as they were sent.
    """
    config = current_app.config
    again = find(Completion, fields["regenerate"]) if "regenerate" in fields else None
    continued = again.conversation_id if again else fields.get("conversation_id")
    is_aside = continued is not None and not is_own(find(Conversation, continued))
    if is_aside and not again:
        abort(403, f"Conversation {continued} is somebody else's: read it, but begin one of your own to ask.")
    past = list(Completion.of_conversation(continued)) if continued else []
    if not is_aside and (len(past) >= MOST_ANSWERS or sum(len(one.prompt) + len(one.response) for one in past) > MOST_CHARACTERS):
        raise Unprocessable({"conversation_id": ["This conversation is full. All of it is kept; begin a new one to go on."]})
    if not is_aside and any(completion.status == "in_progress" for completion in past):
        raise conversation_busy()
    usual = again.request_model if again and again.request_model in config["LLMSTREAM_MODELS"] else config["LLMSTREAM_MODEL"]
    model = fields.get("model", usual)
    if model not in config["LLMSTREAM_MODELS"]:
        raise Unprocessable({"model": [f"Must be one of: {', '.join(config['LLMSTREAM_MODELS'])}."]})
    prompt = again.prompt if again else fields["prompt"]
    system = fields.get("system", turns(past)[-1][-1].system if past else None)  # an older turn asked again changes nothing
    given = {name: fields[name] for name in ("temperature", "max_tokens") if name in fields}
    parameters = {**(again.parameters if again else {}), **given}
    if again and again.messages:
        messages, dropped = as_sent(again, system)
    else:
        longest = parameters.get("max_tokens")
        messages, dropped = context_for(prompt, system, before(again, turns(past)), config["LLMSTREAM_CONTEXT_TOKENS"], longest)
    row = {
        "conversation_id": None if is_aside else continued,
        "prompt": prompt,
        "messages": messages if is_aside or (again and again.messages) else None,
        "system": system,
        "parameters": parameters,
        "request_model": model,
        "provider_name": generation().upstream.name,
        "dropped_turns": dropped,
        "regenerated_from": again.id if again else None,
        "turn": again.place if again and not is_aside else None,
    }
    return row, messages


def as_sent(again: Completion, system: str | None) -> Context:
    """The messages that are kept with this completion, under the system message that counts now."""
    said = [one for one in again.messages or () if one["role"] != "system"]
    return Context([*([message("system", system)] if system else []), *said], again.dropped_turns)


def find(model: Any, key: int) -> Any:
    found = db.session.get(model, key) if key <= BIGGEST_ID else None
    if found and is_mine(found):
        return found
    abort(404, f"There is no {model.__name__.lower()} {key}.")
