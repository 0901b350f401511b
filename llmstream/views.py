"""`/views`: filters of the history that somebody gave a name. A view is a URL, so it shows what is there when it is opened."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from flask import Blueprint, flash, redirect, request
from marshmallow import Schema, ValidationError, fields, validate
from sqlalchemy import Connection, delete, func, insert, select, update
from werkzeug.datastructures import MultiDict

from .access import actor
from .ask import find, json_object
from .errors import Unprocessable, prefers_html
from .filters import Filter
from .gate import received_body
from .judgements import SavedView, committed
from .models import now
from .schemas import BIGGEST_ID, seen, storable

bp = Blueprint("views", __name__, url_prefix="/views")
MOST = 100
views = SavedView.__table__


class ViewSchema(Schema):
    name = fields.String(required=True, validate=[storable, seen, validate.Length(max=80)])
    query = fields.String(required=True, validate=[storable, validate.Length(max=8000)])


@bp.get("")
def index() -> Any:
    """As JSON; people see their views above the history."""
    return redirect("/history", 303) if prefers_html() else {"data": [dump(view) for view in SavedView.of(actor().name)]}


@bp.post("")
def save() -> Any:
    """Keep a filter under a name. A view that has this name already shows the new filter from then on."""
    is_form = request.mimetype == "application/x-www-form-urlencoded"
    received_body()
    given = ViewSchema().load(request.form.to_dict() if is_form else json_object('{"name": "Failed", "query": "status=failed"}'))
    name = " ".join(given["name"].split())
    asked = given["query"].removeprefix("?")
    if not all("=" in part for part in asked.split("&") if part):
        raise ValidationError({"query": ["Must be the parameters of an address: status=failed&model=a"]})
    try:
        query = Filter.load(MultiDict(parse_qsl(asked, keep_blank_values=True))).query()
    except ValidationError as error:
        named = Unprocessable(error.normalized_messages()).errors
        wrong = [f"{field}: {' '.join(words)}" for field, words in named.items()]
        raise ValidationError({"query": wrong}) from None
    owner = actor().name  # a transaction may run in another thread, which knows of no request
    view_id, is_new = committed(lambda connection: keep(connection, owner, name, query))
    if not is_form:
        return dump(find(SavedView, view_id)), 201 if is_new else 200
    flash(f"These filters are kept as “{name}”." if is_new else f"“{name}” stands for these filters from now on.")
    return redirect(f"/history?{query}", 303)


def keep(connection: Connection, owner: str, name: str, query: str) -> tuple[int, bool]:
    """Its id, and whether it is new."""
    mine = views.c.owner == owner
    known = connection.scalar(select(views.c.id).where(mine, views.c.name == name))
    if known:
        connection.execute(update(views).where(views.c.id == known).values(query=query))
        return known, False
    if (connection.scalar(select(func.count()).where(mine)) or 0) >= MOST:
        raise ValidationError(f"There are {MOST} views already: delete one first.", "name")
    row = {"owner": owner, "name": name, "query": query, "created_at": now()}
    return connection.scalars(insert(views).values(row).returning(views.c.id)).one(), True


@bp.delete("/<int:view_id>")
def remove(view_id: int) -> Any:
    """Deleting twice does no harm."""
    gone = delete(views).where(views.c.id == min(view_id, BIGGEST_ID), views.c.owner == actor().name)
    committed(lambda connection: connection.execute(gone))
    return "", 204


@bp.post("/<int:view_id>/delete")
def remove_by_form(view_id: int) -> Any:
    received_body()
    back = Filter.load(MultiDict(parse_qsl(request.form.get("back", "")))).query()
    remove(view_id)
    return redirect(f"/history?{back}", 303)


def dump(view: SavedView) -> dict[str, Any]:
    return {"id": view.id, "name": view.name, "query": view.query, "url": f"/history?{view.query}"}
