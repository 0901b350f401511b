"""`/openapi.json`: the API for programs, written from the schemas that check it and the URL map that routes to it."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Blueprint, current_app
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.routing import Rule

from .auth import has_login
from .filters import FilterSchema
from .models import Completion
from .schemas import AfterSchema, CompletionSchema, KeySchema, LastEventSchema, Moment, PageSchema, PromptSchema, ViewSchema

bp = Blueprint("openapi", __name__)
TEXT: dict[str, Any] = {"type": "string"}
NUMBER, WORDS, LIST = {"type": "integer"}, {"type": ["string", "null"]}, {"type": "array", "items": TEXT}
SHAPES = ("Completion", "OneCompletion", "Said", "SavedView", "Problem")
NEXT = {"type": ["integer", "null"]}


class Call(NamedTuple):
    """`answers`: of each status the schemas by media type. `refusals`: statuses beside those that any call may be refused with.

    Where the schema is a feature's it is named, since features are not imported: marshmallow finds it.
    """

    words: str
    answers: dict[int, dict[str, Any]]
    refusals: tuple[int, ...] = ()
    query: tuple[Any, ...] = ()
    header: Any = None
    body: Any = None


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def json(schema: Any) -> dict[str, Any]:
    """A schema as it is, or by the name of a shape."""
    return {"application/json": {"$ref": f"#/components/schemas/{schema}"} if schema in SHAPES else schema}


def page_of(name: str, **more: Any) -> dict[str, Any]:
    return json(an_object(data={"type": "array", "items": json(name)["application/json"]}, **more))


ANY, BODY, ENDED = (400, 401, 403, 414, 429, 431, 503), (408, 413, 415, 422), (404, 406, 409, 422, 500, 502, 504)
HTML, STREAM = {"text/html": TEXT}, {"text/plain": TEXT, "text/event-stream": TEXT}
LINES = {"text/csv": TEXT, "application/jsonl": TEXT}
LISTED = (PageSchema, FilterSchema)
CHANGES = {"type": "array", "items": an_object(name=TEXT, change=TEXT, changed_by=TEXT, created_at=TEXT)}
COMPLETION, DELETED, NAMED = json("Completion"), json(an_object(deleted=NUMBER)), json(an_object(name=TEXT))
CALLS = {
    "stream.send": Call("Send a prompt; its answer", {200: STREAM}, (*BODY, *ENDED), header=KeySchema, body=PromptSchema),
    "stream.reattach": Call("The answer again", {200: STREAM}, ENDED, (AfterSchema,), LastEventSchema),
    "stream.stop": Call("Stop the answer", {200: COMPLETION, 202: COMPLETION}, (404,)),
    "history.index": Call("Newest first", {200: page_of("Completion", next_before=NEXT) | HTML}, (422,), LISTED),
    "history.detail": Call("One answer", {200: json("OneCompletion") | HTML}, (404, 422), (ViewSchema, FilterSchema)),
    "review.list_reviews": Call("What was said of it", {200: page_of("Said", next_before=NEXT)}, (404, 422), (PageSchema,)),
    "review.add_review": Call("Judge it", {201: json("Said"), 200: json("Said")}, (404, 409, *BODY), body="review.ReviewSchema"),
    "review.list_tags": Call("Its tags, and who changed them", {200: json(an_object(data=LIST, changes=CHANGES))}, (404,)),
    "review.change_tags": Call("Change its tags", {200: json(an_object(data=LIST))}, (404, 409, *BODY), body="review.TagsSchema"),
    "review.put_tag": Call("Tag it", {201: NAMED, 200: NAMED}, (404, 409, 422)),
    "review.delete_tag": Call("Take the tag away", {204: {}}, (404, 409, 422)),
    "queue.renew": Call("Go on reviewing it alone", {204: {}}, (404, 409)),
    "views.index": Call("Filters with a name", {200: page_of("SavedView")}),
    "views.save": Call("Name a filter", {201: json("SavedView"), 200: json("SavedView")}, (404, *BODY), body="views.ViewSchema"),
    "views.remove": Call("Delete a filter's name", {204: {}}, (404,)),
    "stats.index": Call("The numbers", {200: json({"type": "object"}) | HTML}, (422,), (FilterSchema, "stats.StatsSchema")),
    "export.download": Call("All that a filter shows", {200: LINES}, (404, 422), (FilterSchema,)),
    "deletion.one": Call("Delete an answer", {200: DELETED}, (404, 409)),
    "deletion.conversation": Call("Delete a conversation", {200: DELETED}, (404, 409)),
    "openapi.document": Call("This document", {200: json({"type": "object"})}),
}


@bp.get("/openapi.json")
def document() -> dict[str, Any]:
    return written(has_login())


@cache  # a process has one app, and the routes of that stay as they are
def written(login_needed: bool) -> dict[str, Any]:
    plugin = MarshmallowPlugin()
    security: list[dict[str, Any]] = [{"key": []}, {"cookie": []}, *([] if login_needed else [{}])]
    spec = APISpec("llmstream", "1", "3.1.0", plugins=[plugin], security=security)
    plugin.map_to_openapi_type(Moment, "string", None)
    plugin.converter.add_attribute_function(anchored)  # type: ignore[union-attr]
    spec.components.security_scheme("key", {"type": "http", "scheme": "bearer"})
    cookie = current_app.config["SESSION_COOKIE_NAME"]
    spec.components.security_scheme("cookie", {"type": "apiKey", "in": "cookie", "name": cookie})
    for name, shape in shapes(plugin).items():
        spec.components.schema(name, component=an_object(**shape))
    for rule in current_app.url_map.iter_rules():
        if rule.endpoint in CALLS:
            path = re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", rule.rule)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                spec.path(path, operations={method.lower(): operation(rule, CALLS[rule.endpoint])})
    document: dict[str, Any] = spec.to_dict()
    document["components"]["schemas"]["Prompt"]["anyOf"] = [{"required": ["prompt"]}, {"required": ["regenerate"]}]
    return document


def anchored(_converter: Any, _field: Any, ret: dict[str, Any]) -> dict[str, str]:
    """A pattern of Python's as JSON Schema has it."""
    return {"pattern": f"^{ret['pattern'].removesuffix(chr(92) + 'Z')}$"} if "pattern" in ret else {}


def shapes(plugin: Any) -> dict[str, dict[str, Any]]:
    """What goes out. What a column may leave empty may be null."""
    completion = plugin.converter.schema2jsonschema(CompletionSchema)["properties"]
    completion["created_at"] = TEXT | {"format": "date-time"}
    for name in {name for name, column in Completion.__table__.c.items() if column.nullable} & set(completion):
        completion[name] = {"type": [completion[name]["type"], "null"]} if "type" in completion[name] else {}
    said = {name: WORDS for name in ("rating", "reason", "note", "correction")}
    return {
        "Completion": completion,
        "OneCompletion": completion | {"conversation": LIST | {"items": NUMBER}},
        "Said": {"id": NUMBER, "completion_id": NUMBER, "reviewer": TEXT, "role": TEXT, **said, "created_at": TEXT},
        "SavedView": {"id": NUMBER, "name": TEXT, "query": TEXT, "url": TEXT},
        "Problem": {"type": TEXT, "title": TEXT, "status": NUMBER, "detail": TEXT},
    }


def operation(rule: Rule, call: Call) -> dict[str, Any]:
    refused = {"application/problem+json": json("Problem")["application/json"]} | HTML
    answers = {status: refused for status in (*ANY, *call.refusals)} | call.answers
    kinds = sorted(rule._converters.items())  # in the same order in each process
    path = [{"in": "path", "name": name, "required": True, "schema": of_path(kind)} for name, kind in kinds]
    query = [{"in": "query", "schema": known(schema)} for schema in call.query]
    header = [{"in": "header", "schema": call.header}] if call.header else []
    body = {"requestBody": {"required": True, "content": content(json(known(call.body)))}} if call.body else {}
    return {
        "operationId": rule.endpoint,
        "summary": call.words,
        "parameters": [*path, *query, *header],
        "responses": {str(s): {"description": HTTP_STATUS_CODES[s], "content": content(answers[s])} for s in sorted(answers)},
        **body,
    }


def content(shapes: dict[str, Any]) -> dict[str, Any]:
    return {media: {"schema": shape} for media, shape in shapes.items()}


def of_path(converter: Any) -> dict[str, Any]:
    if hasattr(converter, "items"):
        return {"type": "string", "enum": sorted(converter.items)}
    return {"type": "integer", "minimum": 0} if "Integer" in type(converter).__name__ else {"type": "string", "minLength": 1}


def known(schema: Any) -> Any:
    return f"{__package__}.{schema}" if isinstance(schema, str) else schema
