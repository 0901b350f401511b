"""`/history`: what was asked and answered, newest first, for scripts as JSON and for people as pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, render_template, request

from .ask import find
from .errors import prefers_html
from .filters import Filter
from .models import Completion
from .schemas import CompletionSchema, PageSchema
from .words import mark

bp = Blueprint("history", __name__, url_prefix="/history")
bp.add_app_template_filter(mark)
PAGE = ("limit", "before")


@bp.after_request
def vary(response: Response) -> Response:
    response.headers["Vary"] = "Accept"
    return response


@bp.get("")
def index() -> Any:
    page = PageSchema().load({name: request.args[name] for name in PAGE if name in request.args})
    chosen = Filter.load(request.args, also=PAGE)
    found = chosen.page(page["limit"], page.get("before"))
    completions = Completion.among(found.ids)
    if prefers_html():
        return render_template(
            "history.html", filter=chosen, found=found, completions=completions, next_before=found.next_before, **page
        )
    return {"data": CompletionSchema(many=True).dump(completions), "next_before": found.next_before}


@bp.get("/<int:completion_id>")
def detail(completion_id: int) -> Any:
    completion = find(Completion, completion_id)
    conversation = Completion.of_conversation(completion.conversation_id)
    if prefers_html():
        return render_template("completion.html", completion=completion, conversation=conversation)
    return CompletionSchema().dump(completion) | {"conversation": [other.id for other in conversation]}
