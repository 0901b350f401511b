"""`/history`: what was asked and answered, newest first, for scripts as JSON and for people as pages."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app, redirect, render_template, request, stream_template
from marshmallow import EXCLUDE
from sqlalchemy import select

from .access import actor, is_own, only
from .ask import find
from .breath import breathing
from .errors import prefers_html, vary_by_accept
from .filters import Filter, Page
from .judgements import RECENT, Review, SavedView, Tag, judging, most_frequent
from .models import Completion, now, turns
from .reproduce import as_curl, as_program, same_call
from .schemas import CompletionSchema, PageSchema, ViewSchema
from .search import is_behind
from .shapes import shown, tags_of
from .timeline import Timeline
from .words import mark, parse

bp = Blueprint("history", __name__, url_prefix="/history")
bp.after_request(vary_by_accept)
for tool in (mark, as_curl, as_program):
    bp.add_app_template_filter(tool)


@bp.get("")
def index() -> Any:
    page = PageSchema().load(request.args, unknown=EXCLUDE)
    chosen = Filter.load(request.args, also=("limit", "before"))
    found = chosen.page(page["limit"], page.get("before"))
    if not prefers_html():
        return {"data": list(shown(found.ids))[::-1], "next_before": found.next_before}
    rows = {"completions": Completion.among(found.ids), "next_before": found.next_before, **page}
    return "".join(breathing(stream_template("history.html", filter=chosen, found=found, **rows, **around(chosen, found))))


def around(chosen: Filter, found: Page) -> dict[str, Any]:
    """What the page shows beside the rows: views, what can be chosen, what people said, how far the search has come."""
    newest = select(Completion.request_model, Completion.owner).order_by(Completion.id.desc()).limit(RECENT)
    mine, recent = only(), newest.subquery()
    if mine:  # what others use, and who they are, is no suggestion for somebody who may not see it
        recent = select(recent).where(recent.c.owner == mine).subquery()
    return {
        "views": SavedView.of(actor().name),
        "models": most_frequent(recent.c.request_model, 20),
        "owners": most_frequent(recent.c.owner, 20),
        "tags": [] if mine else Tag.usual(),
        "reasons": [] if mine else Review.usual_reasons(),
        "tags_of": tags_of(found.ids),
        "ratings": Review.ratings(found.ids),
        "today": now().date(),
        "has_words": "q" not in chosen.values or bool(parse(chosen.values["q"])),
        "is_indexed": "q" not in chosen.values or not is_behind(),
        "looked_back_to": Completion.begun_after(found.next_before) if found.is_short else None,
    }


@bp.get("/<int:completion_id>")
def detail(completion_id: int) -> Any:
    ViewSchema().load(request.args, unknown=EXCLUDE)
    chosen = Filter.load(request.args, also=("view",))
    completion = find(Completion, completion_id)
    conversation = Completion.of_conversation(completion.conversation_id)
    if not prefers_html():
        return CompletionSchema().dump(completion) | {"conversation": [other.id for other in conversation]}
    parts = {
        "completion": completion,
        "is_own": is_own(completion),
        "conversation": conversation,
        "turns": turns(conversation),
        "aside": Completion.asked_aside(completion, only()),
        "call": same_call(completion, conversation),
        "is_offered": completion.request_model in current_app.config["LLMSTREAM_MODELS"],
        "timeline": Timeline.of(completion),
        "query": chosen.query(),
    }
    return render_template("completion.html", **parts, **judging(completion))


@bp.get("/<int:completion_id>/<any(older, newer):way>")
def neighbour(completion_id: int, way: str) -> Any:
    """The next one in the list that the reader came from; the list itself where that ends."""
    chosen = Filter.load(request.args)
    found = chosen.page(1, completion_id).ids if way == "older" else chosen.after(1, completion_id)
    end = chosen.query(before=completion_id if way == "older" else None)
    return redirect(f"/history/{found[0]}?{chosen.query()}" if found else f"/history?{end}", 303)
