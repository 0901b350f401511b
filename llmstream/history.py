"""`/history`: what was asked and answered, newest first, for scripts as JSON and for people as pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, render_template, request

from .ask import find
from .errors import prefers_html
from .models import Completion
from .schemas import CompletionSchema, PageSchema

bp = Blueprint("history", __name__, url_prefix="/history")


@bp.after_request
def vary(response: Response) -> Response:
    response.headers["Vary"] = "Accept"
    return response


@bp.get("")
def index() -> Any:
    page = PageSchema().load(request.args.to_dict())
    found = Completion.page(page["limit"] + 1, page.get("before"))
    completions = found[: page["limit"]]
    next_before = completions[-1].id if len(found) > len(completions) else None
    if prefers_html():
        return render_template("history.html", completions=completions, next_before=next_before, **page)
    return {"data": CompletionSchema(many=True).dump(completions), "next_before": next_before}


@bp.get("/<int:completion_id>")
def detail(completion_id: int) -> Any:
    completion = find(Completion, completion_id)
    conversation = Completion.of_conversation(completion.conversation_id)
    if prefers_html():
        return render_template("completion.html", completion=completion, conversation=conversation)
    return CompletionSchema().dump(completion) | {"conversation": [other.id for other in conversation]}
