"""`/history`: what was asked and answered, newest first, for scripts as JSON and for people as pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, render_template, request
from sqlalchemy import select

from .ask import OWNER, find
from .errors import prefers_html
from .filters import Filter, Page
from .judgements import RECENT, Review, SavedView, Tag, most_frequent
from .models import Completion, now
from .schemas import CompletionSchema, PageSchema
from .search import behind
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
        shown = {"completions": completions, "next_before": found.next_before, **page, **around(chosen, found)}
        return render_template("history.html", filter=chosen, found=found, **shown)
    return {"data": CompletionSchema(many=True).dump(completions), "next_before": found.next_before}


def around(chosen: Filter, found: Page) -> dict[str, Any]:
    """What the page shows beside the rows: views, what can be chosen, what people said, how far the search has come."""
    recent = select(Completion.request_model, Completion.owner).order_by(Completion.id.desc()).limit(RECENT).subquery()
    return {
        "views": SavedView.of(OWNER),
        "models": most_frequent(recent.c.request_model, 20),
        "owners": most_frequent(recent.c.owner, 20),
        "tags": Tag.usual(),
        "reasons": Review.usual_reasons(),
        "tags_of": Tag.among(found.ids),
        "thumbs": Review.thumbs(found.ids),
        "today": now().date(),
        "is_indexed": "q" not in chosen.values or not behind(),
        "looked_back_to": Completion.begun_after(found.next_before) if found.is_short else None,
    }


@bp.get("/<int:completion_id>")
def detail(completion_id: int) -> Any:
    completion = find(Completion, completion_id)
    conversation = Completion.of_conversation(completion.conversation_id)
    if prefers_html():
        return render_template("completion.html", completion=completion, conversation=conversation)
    return CompletionSchema().dump(completion) | {"conversation": [other.id for other in conversation]}
