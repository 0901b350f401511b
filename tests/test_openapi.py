"""`/openapi.json` describes what is there: every call but those of pages, with the answers that it truly gives."""
import re
from typing import Any

import pytest
from openapi_spec_validator import validate

from llmstream import create_app
from tests.client import Client

# Pages, their forms, and redirects between them: for people, so not described.
PAGES = {"static", "chat.index", "chat.send", "login.form", "login.enter", "login.leave", "login.change_password",
         "login.admin", "login.add_user", "login.change_user", "login.add_key", "login.revoke_key", "history.neighbour",
         "compare.compare", "compare.again", "views.remove_by_form", "review.name_reviewer", "queue.index", "export.page",
         "deletion.page", "deletion.confirmed", "deletion.one_by_form"}
app = create_app({"DATABASE_URL": "sqlite:////dev/null/none.db", "SECRET_KEY": "x" * 32})
ROUTES = {(method, re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", rule.rule), rule.endpoint) for rule in app.url_map.iter_rules()
          for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


@pytest.fixture(scope="module")
def document(client: Client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_call_but_the_pages_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    described = {(method.upper(), path, call["operationId"]) for path, calls in document["paths"].items()
                 for method, call in calls.items()}
    assert described == {route for route in ROUTES if route[2] not in PAGES}


def test_refusals_are_problems_and_the_answer_is_a_stream(document: dict[str, Any]) -> None:
    assert set(document["paths"]["/stream"]["post"]["responses"]["200"]["content"]) == {"text/plain", "text/event-stream"}
    for calls in document["paths"].values():
        for call in calls.values():
            refusals = {code: answer for code, answer in call["responses"].items() if int(code) >= 400}
            assert {"400", "401", "403", "503"} <= set(refusals)
            assert all("application/problem+json" in answer["content"] for answer in refusals.values())


def test_the_rules_are_those_of_the_schemas(document: dict[str, Any]) -> None:
    asked = document["components"]["schemas"]["Prompt"]
    assert asked["additionalProperties"] is False and asked["properties"]["temperature"]["maximum"] == 2
    listed = {parameter["name"] for parameter in document["paths"]["/history"]["get"]["parameters"]}
    assert {"limit", "before", "from", "to", "status", "q", "tag"} <= listed
    assert set(document["components"]["securitySchemes"]) == {"key", "cookie"}
