"""`/history/<id>/compare/<other>`: two answers with their differences marked; `/history/<id>/again`: asking for the second."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app, redirect, render_template, request
from markupsafe import Markup

from .ask import ask, find
from .differences import differences
from .gate import received_body
from .models import Completion
from .reproduce import same_call
from .schemas import KeySchema, PromptSchema
from .visible import visible

bp = Blueprint("compare", __name__, url_prefix="/history/<int:completion_id>")


@bp.get("/compare/<int:other_id>")
def compare(completion_id: int, other_id: int) -> str:
    pair = [find(Completion, completion_id), find(Completion, other_id)]
    found = differences(pair[0].text, pair[1].text)
    shown = [marked(side, tag) for side, tag in zip(found.sides, ("del", "ins"), strict=True)]
    return render_template("compare.html", pair=pair, shown=shown, unit=found.unit)


def marked(pieces: list[tuple[str, bool]], tag: str) -> Markup:
    """What one side has alone stands in `tag`, in words too for who does not see the mark."""
    alone = Markup('<{0}><span class="visually-hidden"> [only here: </span>{1}<span class="visually-hidden">] </span></{0}>')
    return Markup("").join(visible(text) if is_shared else alone.format(tag, visible(text)) for text, is_shared in pieces)


@bp.post("/again")
def again(completion_id: int) -> Any:
    """The same call once more, kept as another answer to the same prompt; from there to both side by side."""
    received_body()
    key = KeySchema().load({"Idempotency-Key": request.form["idempotency_key"]} if "idempotency_key" in request.form else {})
    completion = find(Completion, completion_id)
    body = same_call(completion, Completion.of_conversation(completion.conversation_id))
    if body.pop("prompt", None) is not None:
        body.setdefault("system", "")  # `regenerate` alone would take the one that the conversation has by now
    if body["model"] not in current_app.config["LLMSTREAM_MODELS"]:
        del body["model"]  # the default answers instead
    asked = ask(PromptSchema().load(body | {"regenerate": completion_id}), "chat", key.get("idempotency_key"))
    return redirect(f"/history/{completion_id}/compare/{asked.transcript.id}", 303)
