"""`/stream`: send a prompt and read its answer as it is written; come back to it; stop it."""

from __future__ import annotations

import time

from flask import Blueprint, Response, abort, request

from .ask import Asked, ask, follow, generation, json_object, stop_answer
from .delivery import STREAM_HEADERS, events, noted, text, while_there, whole
from .errors import Unprocessable
from .gate import bound_slow_reader
from .generation import tail
from .schemas import AfterSchema, CompletionSchema, KeySchema, LastEventSchema, PromptSchema
from .transcript import Transcript

bp = Blueprint("stream", __name__)
CATCH_UP_S = 15.0  # how long it takes at most until the answers of a dead worker are ended


@bp.post("/stream")
def send() -> Response:
    as_events = wants_events()
    fields = PromptSchema().load(json_object('{"prompt": "Hello"}'))
    key = KeySchema().load({k: v for k, v in request.headers.items() if k == "Idempotency-Key"})
    asked = ask(fields, source(), key.get("idempotency_key"))
    return respond(asked, 0, as_events)


@bp.get("/stream/<int:completion_id>")
def reattach(completion_id: int) -> Response:
    as_events = wants_events()
    after = bytes_already_had()
    transcript = follow(completion_id)
    check_offset(transcript, after, as_events)
    return respond(Asked(transcript, False), after, as_events)


@bp.delete("/stream/<int:completion_id>")
def stop(completion_id: int) -> tuple[dict[str, object], int]:
    completion = stop_answer(completion_id)
    return CompletionSchema().dump(completion), 202 if completion.status == "in_progress" else 200


def wants_events() -> bool:
    utf8 = "; charset=utf-8"
    offered = ["text/plain", "text/plain" + utf8, "text/event-stream", "text/event-stream" + utf8]
    chosen = request.accept_mimetypes.best_match(offered) if request.accept_mimetypes else offered[0]
    if not chosen:
        abort(406, "An answer comes as text/plain or as text/event-stream; the Accept header allows neither.")
    return chosen.startswith("text/event-stream")


def source() -> str:
    """Browsers say where a request comes from; ours come from the chat page."""
    return "chat" if request.headers.get("Sec-Fetch-Site") == "same-origin" else "api"


def bytes_already_had() -> int:
    if request.args:
        return AfterSchema().load(request.args.to_dict())["after"]
    last = request.headers.get("Last-Event-ID")
    return LastEventSchema().load({"Last-Event-ID": last})["after"] if last else 0


def check_offset(transcript: Transcript, after: int, as_events: bool) -> None:
    """422 for a place beyond what there is. But a client of another worker may have seen a moment more than is stored: by then
    it is, or that worker is dead; and of an answer that was cut, whoever saw more than was kept is told how it ended."""
    is_ours = generation().recorder.live.get(transcript.id or 0) is transcript
    give_up = time.monotonic() + CATCH_UP_S
    while after > len(transcript.text) and not (is_ours or transcript.ended) and time.monotonic() < give_up:
        transcript.wait(0.1)
    was_cut = transcript.ended and transcript.ended.status != "completed"
    if after > len(transcript.text) and not was_cut:
        raise Unprocessable({"after": [f"There are only {len(transcript.text)} bytes."]})
    if as_events and after < len(transcript.text) and transcript.text[after] & 0xC0 == 0x80:
        raise Unprocessable({"after": ["Lies inside a character."]})


def respond(asked: Asked, after: int, as_events: bool) -> Response:
    """The answer as a response. What fails before the first text is a true HTTP error, except in events, which begin at once."""
    transcript, connection = asked.transcript, request.environ.get("gunicorn.socket")
    bound_slow_reader()  # before the wait for the first text, too
    pieces = tail(transcript, after)
    if asked.is_new:
        pieces = noted(pieces, transcript, generation().recorder)
    chunks = events(pieces, transcript, after) if as_events else text(while_there(pieces, connection), transcript)
    body = whole(chunks, transcript) if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else chunks
    response = Response(body, mimetype="text/event-stream" if as_events else "text/plain", headers=STREAM_HEADERS)
    response.headers["Completion-Id"] = str(transcript.id)
    response.headers["Conversation-Id"] = str(transcript.conversation_id)
    response.headers["Location"] = f"/history/{transcript.id}"
    return response
