"""`/history.csv`, `/history.jsonl` and two for training: exactly what a filter shows, in constant memory, cut where it fails."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flask import Blueprint, Flask, Response, current_app, render_template, request
from marshmallow import EXCLUDE, Schema, validate
from sqlalchemy import func, select

from .accounts import audit
from .breath import breathing
from .delivery import STREAM_HEADERS, Cut
from .extensions import db, first_line
from .filters import Filter
from .gate import in_pieces
from .models import Completion, now
from .schemas import BIGGEST_ID, Digits
from .shapes import HEADINGS, as_chat, as_csv, as_jsonl, as_preferences, csv_line

log = logging.getLogger(__name__)
bp = Blueprint("export", __name__)
BATCH, BATCH_BYTES = 100, 1 << 19  # rows and text that are in memory at a time; one row may be larger
PartSchema = Schema.from_dict({name: Digits(validate=validate.Range(0, BIGGEST_ID)) for name in ("after", "upto")})
Shape = Callable[[list[int]], Iterator[str]]


class Format(NamedTuple):
    mimetype: str
    file: str
    shape: Shape
    opening: str = ""


BOM = "\ufeff"  # by which a spreadsheet knows UTF-8
FORMATS = {  # templates/export.html says what each is for
    "history.csv": Format("text/csv", "llmstream-{}.csv", as_csv, BOM + csv_line(HEADINGS)),
    "history.jsonl": Format("application/jsonl", "llmstream-{}.jsonl", as_jsonl),
    "history.chat.jsonl": Format("application/jsonl", "llmstream-chat-{}.jsonl", as_chat),
    "history.preferences.jsonl": Format("application/jsonl", "llmstream-preferences-{}.jsonl", as_preferences),
}


@bp.get("/export")
def page() -> str:
    chosen = Filter.load(request.args)
    last = db.session.scalar(select(func.max(Completion.id))) or 0
    return render_template("export.html", filter=chosen, count=chosen.count(), last=last)


@bp.get("/<any('history.csv', 'history.jsonl', 'history.chat.jsonl', 'history.preferences.jsonl'):name>")
def download(name: str) -> Response:
    part, form = PartSchema().load(request.args, unknown=EXCLUDE), FORMATS[name]
    chosen = Filter.load(request.args, also=("after", "upto"))
    if request.method == "GET":
        audit("export", name, {"query": chosen.query(), **part})
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    opening = form.opening if "after" not in part else ""
    body = written(app, chosen, form.shape, opening, part.get("after", 0), part.get("upto", BIGGEST_ID - 1))
    headers = STREAM_HEADERS | {"Content-Disposition": f'attachment; filename="{form.file.format(now().date())}"'}
    if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        body, headers["Content-Length"] = measured(body)
    return Response(body, mimetype=form.mimetype, headers=headers)


def measured(body: Iterator[bytes]) -> tuple[Any, str]:
    """For HTTP/1.0, whose clients tell a cut by the length alone: all of it in a file first."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (whoever sends it closes it)
    file.writelines(body)
    length = str(file.tell())
    file.seek(0)
    return file, length


def written(app: Flask, chosen: Filter, shape: Shape, opening: str, after: int, upto: int) -> Iterator[bytes]:
    """The export in pieces, rows with ids above `after` up to `upto`. Raises Cut where it cannot go on.

    Each look at the database has a context, and with it a session, of its own: none is held while a client reads.
    """
    try:
        yield opening.encode()
        while True:
            with app.app_context():
                ids = chosen.after(BATCH, after, upto)
                parts = list(in_parts(ids))
            if not ids:
                return
            for part in parts:
                with app.app_context():
                    text = "".join(breathing(shape(part)))
                yield from in_pieces(text.encode())
            after = ids[-1]
    except Exception as error:
        log.warning("an export was cut: %s", first_line(error), exc_info=True)
        raise Cut from None


def in_parts(ids: list[int]) -> Iterator[list[int]]:
    """The same ids in lists whose texts together are small, or of one."""
    size = func.octet_length(Completion.prompt) + func.octet_length(Completion.response)
    sizes = db.session.execute(select(Completion.id, size).where(Completion.id.in_(ids)).order_by(Completion.id)).all()
    part: list[int] = []
    total = 0
    for completion_id, bytes_ in sizes:
        if part and total + bytes_ > BATCH_BYTES:
            yield part
            part, total = [], 0
        part.append(completion_id)
        total += bytes_
    if part:
        yield part
