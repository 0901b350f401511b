"""The chat page. With JavaScript it talks to `/stream`; without, the same form is answered by a page that streams."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, stream_template
from marshmallow import EXCLUDE, Schema, ValidationError, validate
from werkzeug.exceptions import HTTPException

from .access import READ, is_mine, is_own, may
from .ask import Asked, ask, find, generation, stop_answer
from .delivery import STREAM_HEADERS, noted, while_there
from .endings import Ending
from .errors import Unprocessable, retry_after
from .gate import received_body
from .generation import tail
from .judgements import Review
from .models import Completion, Conversation, db, turns
from .schemas import BIGGEST_ID, Digits, KeySchema, PromptSchema

bp = Blueprint("chat", __name__)
AnId = Digits(validate=validate.Range(1, BIGGEST_ID))
FormSchema = Schema.from_dict({name: AnId for name in ("conversation", "conversation_id", "regenerate", "stop")})


@bp.app_template_global()
def new_key() -> str:
    """An Idempotency-Key for a form: sent again by a reload, it brings back the same answer."""
    return secrets.token_urlsafe(16)


@bp.get("/")
def index() -> str:
    return render_template("chat.html", **context(ids_in(request.args).get("conversation")))


@bp.post("/")
def send() -> Any:
    received_body()
    if not may(READ):
        abort(403, f"The chat page shows earlier conversations, which needs the permission to {READ}. POST /stream does not.")
    ids = ids_in(request.form)
    if "stop" in ids:
        return redirect(f"/?conversation={stop_answer(ids['stop']).conversation_id}", 303)
    form = {name: value.replace("\r\n", "\n") for name, value in request.form.items() if value and name not in ids}
    key = form.pop("idempotency_key", None)
    try:
        KeySchema().load({"Idempotency-Key": key} if key else {})
        asked = ask(PromptSchema().load(form | ids), "chat", key)
    except (ValidationError, HTTPException) as error:
        return refused(error, ids, form.get("prompt", ""))
    page = context(asked.transcript.conversation_id, live=Live(asked))
    db.session.remove()  # what the page shows is loaded; no connection is held while the answer is awaited
    return Response(stream_template("chat.html", **page), mimetype="text/html", headers=STREAM_HEADERS)


def ids_in(given: Any) -> dict[str, int]:
    return FormSchema().load({name: value for name, value in given.items() if value}, unknown=EXCLUDE)


def refused(error: Any, ids: dict[str, int], prompt: str) -> tuple[str, int, dict[str, str]]:
    """The same page again, with the reason in words and the prompt still in its box."""
    if isinstance(error, ValidationError):
        error = Unprocessable(error.normalized_messages())
    again = db.session.get(Completion, ids.get("regenerate", 0))
    talk = db.session.get(Conversation, again.conversation_id if again else ids.get("conversation_id", 0))
    shown = talk.id if talk and is_mine(talk) else None  # it may have been deleted meanwhile
    wait = retry_after(error)
    page = render_template("chat.html", **context(shown, failure=error, wait=wait, prompt=prompt))
    return page, error.code, {"Retry-After": str(wait)} if wait else {}


def context(conversation_id: int | None, **more: Any) -> dict[str, Any]:
    """What chat.html shows: the conversation by turns, those at the side, and what the form offers."""
    conversation = find(Conversation, conversation_id) if conversation_id else None
    completions = Completion.of_conversation(conversation.id) if conversation else []
    ratings = Review.ratings([completion.id for completion in completions])
    return {
        "conversation": conversation,
        "reads_only": conversation is not None and not is_own(conversation),
        "turns": turns(completions),
        "thumbs": {completion_id: rating["user"] for completion_id, rating in ratings.items()},
        "conversations": Conversation.recent(50),
        "models": current_app.config["LLMSTREAM_MODELS"],
        **more,
    }


class Live:
    """An answer for a page that streams: the template writes its pieces, then asks how it ended."""

    def __init__(self, asked: Asked) -> None:
        self.ending: Ending | None = None
        self.transcript, pieces = asked.transcript, tail(asked.transcript)
        pieces = noted(pieces, self.transcript, generation().recorder) if asked.is_new else pieces
        self._pieces = while_there(pieces, request.environ.get("gunicorn.socket"))

    @property
    def pieces(self) -> Iterator[bytes]:
        with closing(self._pieces):
            self.ending = yield from self._pieces
