"""Judging one answer, with a script or a form: `/history/<id>/reviews` and `/history/<id>/tags`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, redirect, request
from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from .access import ASK, JUDGE, actor, is_own, may
from .ask import find, json_object
from .gate import received_body
from .identity import keep_cookie, plain_name, reviewer
from .judgements import SAID, Review, Tag, TagChange, judge, set_tag
from .models import Completion
from .schemas import PageSchema, rfc3339, seen, storable

bp = Blueprint("review", __name__)
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
LONGEST_TEXT = 64 * 1024  # bytes of a note or a correction


def short(text: str) -> None:
    if len(text.encode(errors="surrogatepass")) > LONGEST_TEXT:
        raise ValidationError("At most 64 KiB. Nothing was saved.")


class Words(fields.String):
    """Text with LF at its line ends; blank text is empty."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, *args, **kwargs).replace("\r\n", "\n")
        return text if text.strip() else ""


class Line(Words):
    """Text on one line, with single spaces."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return " ".join(super()._deserialize(value, *args, **kwargs).split())


class ReviewSchema(Schema):
    role = fields.String(load_default="reviewer", validate=validate.OneOf(["reviewer", "user"]))
    rating = fields.String(allow_none=True, validate=validate.OneOf(["good", "bad"]))
    reason = Line(allow_none=True, validate=[storable, validate.Length(max=200)])
    note = Words(allow_none=True, validate=[storable, short])
    correction = Words(allow_none=True, validate=[storable, short])

    @validates_schema
    def says_something(self, data: dict[str, Any], **_: Any) -> None:
        """Only a user may say nothing: that takes a thumb back."""
        if data["role"] == "reviewer" and not any(data.get(name) for name in SAID):
            raise ValidationError("Say good or bad, or write a reason, a note or a correction. Nothing was saved.", "rating")


class TagsSchema(Schema):
    add = Line(validate=[storable, validate.Length(max=50), seen])
    remove = Line(validate=[storable, validate.Length(1, 50)])


class ThenSchema(Schema):
    """Where a form leads: to a page of ours and of nobody else."""

    then = fields.String(validate=validate.Regexp(r"/(?![/\\])[!-~]*\Z", error="Must be a path of this service."))


@bp.get("/history/<int:completion_id>/reviews")
def list_reviews(completion_id: int) -> dict[str, Any]:
    page = PageSchema().load(request.args)
    find(Completion, completion_id)
    found = Review.of(completion_id, page["limit"] + 1, page.get("before"))
    shown = found[: page["limit"]]
    return {"data": [dump(review) for review in shown], "next_before": shown[-1].id if len(found) > len(shown) else None}


@bp.post("/history/<int:completion_id>/reviews")
def add_review(completion_id: int) -> Any:
    given, then = sent('{"rating": "good"}')
    said = ReviewSchema().load(given)
    role = said.pop("role")
    if role == "reviewer" and not may(JUDGE):
        abort(403, f"To judge as a reviewer needs the permission to {JUDGE}. A thumb as the user (role: user) does not.")
    completion = find(Completion, completion_id)
    if role == "user" and not (is_own(completion) and may(ASK)):
        abort(403, f"The thumb of the user (role: user) is for who asked, with the permission to {ASK}. Nothing was saved.")
    review_id, is_new = judge(completion_id, actor().name if role == "user" else reviewer(), role, said)
    return redirect(then, 303) if then else (dump(find(Review, review_id)), 201 if is_new else 200)


def dump(review: Review) -> dict[str, Any]:
    names = ("id", "completion_id", "reviewer", "role", *SAID)
    return {name: getattr(review, name) for name in names} | {"created_at": rfc3339(review.created_at)}


@bp.get("/history/<int:completion_id>/tags")
def list_tags(completion_id: int) -> dict[str, Any]:
    find(Completion, completion_id)
    changes = [
        {"name": one.name, "change": one.change, "changed_by": one.changed_by, "created_at": rfc3339(one.created_at)}
        for one in TagChange.of(completion_id)
    ]
    return {"data": [tag.name for tag in Tag.of(completion_id)], "changes": changes}


@bp.post("/history/<int:completion_id>/tags")
def change_tags(completion_id: int) -> Any:
    given, then = sent('{"add": "a tag"}')
    changes = TagsSchema().load(given)
    find(Completion, completion_id)
    for action, name in changes.items():
        set_tag(completion_id, name, reviewer(), action == "add")
    return redirect(then, 303) if then else {"data": [tag.name for tag in Tag.of(completion_id)]}


@bp.put("/history/<int:completion_id>/tags/<path:name>", merge_slashes=False)
def put_tag(completion_id: int, name: str) -> Any:
    name = TagsSchema().load({"add": name})["add"]
    return {"name": name}, 201 if set_tag(completion_id, name, reviewer(), True) else 200


@bp.delete("/history/<int:completion_id>/tags/<path:name>", merge_slashes=False)
def delete_tag(completion_id: int, name: str) -> Any:
    set_tag(completion_id, TagsSchema().load({"remove": name})["remove"], reviewer(), False)
    return "", 204


@bp.post("/review/name")
def name_reviewer() -> Any:
    given, then = sent('{"name": "Ana"}')
    name = plain_name(str(given.get("name", "")))
    if not name:
        raise ValidationError("1 to 50 characters that can be seen.", "name")
    keep_cookie("reviewer", name)
    return redirect(then or "/review", 303)


def sent(example: str) -> tuple[dict[str, Any], str | None]:
    """What was sent, and the page that a form leads to; None for JSON."""
    if request.mimetype not in FORMS:
        return json_object(example), None
    received_body()
    given = {name: value for name, value in request.form.items() if value}
    then = ThenSchema().load({"then": given.pop("then", "/history")})["then"]
    return given, then
