"""Every error becomes one problem document (RFC 9457), or one page where the client prefers HTML."""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any

from flask import Flask, Response, json, render_template, request
from marshmallow import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import (
    Conflict,
    HTTPException,
    InternalServerError,
    NotFound,
    ServiceUnavailable,
    UnprocessableEntity,
)
from werkzeug.http import HTTP_STATUS_CODES

from .endings import ENDINGS, Ending
from .extensions import is_passing
from .transcript import Transcript

log = logging.getLogger(__name__)
RETRY_AFTER_S = 5
NO_PAGE = "There is nothing at this address. The history, at /history, shows every answer that was kept."


class Unprocessable(UnprocessableEntity):
    """422 with the fields named: {field: [sentence, ...]}, of a list without the places of what is wrong in it."""

    def __init__(self, errors: dict[str, Any]) -> None:
        plain = {name: chain(*words.values()) if isinstance(words, dict) else words for name, words in errors.items()}
        errors = {name: list(dict.fromkeys(words)) for name, words in plain.items()}
        super().__init__("; ".join(f"{name}: {' '.join(map(str, words))}" for name, words in errors.items()))
        self.errors = errors


class NoAnswer(HTTPException):
    """An answer that ended before its first text: the HTTP status that docs/api.md gives to this ending."""

    def __init__(self, transcript: Transcript, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.code = ENDINGS[ending.error_type or "internal_error"].http
        self.completion_id, self.error_type = transcript.id, ending.error_type
        self.retry_after = transcript.retry_after


def conversation_busy() -> Conflict:
    return Conflict("An answer in this conversation is still being written. Wait for it, or stop it.")


def init_app(app: Flask) -> None:
    app.register_error_handler(HTTPException, problem)
    app.register_error_handler(ValidationError, invalid)
    app.register_error_handler(SQLAlchemyError, database_error)
    app.register_error_handler(Exception, unexpected)


def problem(error: HTTPException) -> Response:
    code = error.code or 500
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES.get(code, "Error"),
        "status": code,
        "detail": NO_PAGE if error.description == NotFound.description else error.description,
    }
    for name in ("errors", "completion_id", "error_type"):
        if value := getattr(error, name, None):
            document[name] = value
    wait = retry_after(error)
    if prefers_html():
        more = {"retry_after": wait, "completion_id": None, "back": page_before()}
        page = render_template("error.html", **more | document)
        response = Response(page, code, mimetype="text/html")
    else:
        response = Response(json.dumps(document) + "\n", code, mimetype="application/problem+json")
    if wait:
        response.headers["Retry-After"] = str(wait)
    if document.get("completion_id"):
        response.headers["Completion-Id"] = str(document["completion_id"])
    for name, value in error.get_headers():
        if name in ("Allow", "WWW-Authenticate"):
            response.headers[name] = value
    return response


def retry_after(error: HTTPException) -> int | None:
    """Seconds, of 429 and 503."""
    return (getattr(error, "retry_after", None) or RETRY_AFTER_S) if error.code in (429, 503) else None


def page_before() -> str | None:
    """The page of ours that led here, where the browser tells it."""
    before = request.referrer or ""
    return before if before.startswith(request.host_url) and before != request.url else None


def invalid(error: ValidationError) -> Response:
    return problem(Unprocessable(error.normalized_messages()))


def database_error(error: SQLAlchemyError) -> Response:
    if is_passing(error):
        log.warning("the database did not answer: %s", error)
        return problem(ServiceUnavailable("The database does not answer at the moment. Try again in a few seconds."))
    return unexpected(error)


def unexpected(error: Exception) -> Response:
    log.error("a fault while answering %s %s", request.method, request.path, exc_info=error)
    return problem(InternalServerError("A fault in llmstream; the log of the service has the details."))


def prefers_html() -> bool:
    best = request.accept_mimetypes.best_match(["application/problem+json", "application/json", "text/html"])
    return best == "text/html"


def vary_by_accept(response: Response) -> Response:
    """For caches: the same address is a page for people and data for programs."""
    response.headers["Vary"] = "Accept"
    return response
