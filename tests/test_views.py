"""`/views`: a filter with a name, kept, shown above the history, opened, changed and deleted, with JSON and with forms."""
import html
from typing import Any

import pytest

from tests.client import Client
from tests.contract import is_problem

FORM = {"Accept": "text/html"}


def save(client: Client, name: str, query: str) -> dict[str, Any]:
    response = client.call("POST", "/views", json={"name": name, "query": query})
    assert response.status_code in (200, 201), response.text
    return response.json()


def names(client: Client) -> list[str]:
    return [view["name"] for view in client.get("/views").json()["data"]]


def test_a_view_is_kept_listed_and_deleted(client: Client) -> None:
    view = save(client, "  Failed   ones ", "?status=failed&status=cancelled&q=a+b")
    assert (view["name"], view["query"]) == ("Failed ones", "status=failed&status=cancelled&q=a+b")
    assert view in client.get("/views").json()["data"]
    assert client.get(view["url"]).status_code == 200
    for _ in range(2):
        assert client.call("DELETE", f"/views/{view['id']}").status_code == 204
    assert client.call("DELETE", "/views/" + "9" * 30).status_code == 204
    assert "Failed ones" not in names(client)


@pytest.mark.parametrize("query", ["", "?"])
def test_a_view_may_be_of_everything(client: Client, query: str) -> None:
    view = save(client, "Everything", query)
    assert (view["query"], client.get(view["url"]).status_code) == ("", 200)
    assert client.call("DELETE", f"/views/{view['id']}").status_code == 204


def test_saving_under_a_name_that_is_there_changes_that_view(client: Client) -> None:
    first, second = save(client, "Mine", "rating=bad"), save(client, "Mine", "rating=good")
    assert (second["id"], second["query"]) == (first["id"], "rating=good")
    assert names(client).count("Mine") == 1


def test_forms_lead_back_to_the_history(client: Client) -> None:
    client.stream_text("Something to show").text()
    form = {"name": "By form <b>", "query": "source=chat"}
    saved = client.call("POST", "/views", data=form, headers=FORM, allow_redirects=False)
    assert (saved.status_code, saved.headers["Location"]) == (303, "/history?source=chat")
    assert "By form <b>" in html.unescape(client.page("/history").text) and "By form <b>" not in client.page("/history").text
    (view,) = [view for view in client.get("/views").json()["data"] if view["name"] == "By form <b>"]
    gone = client.call("POST", f"/views/{view['id']}/delete", data={"back": "source=chat"}, headers=FORM, allow_redirects=False)
    assert (gone.status_code, gone.headers["Location"]) == (303, "/history?source=chat")
    assert "By form <b>" not in names(client)


@pytest.mark.parametrize(("body", "field"), [
    ({"name": "x"}, "query"), ({"query": "q=x"}, "name"), ({"name": " ", "query": "q=x"}, "name"),
    ({"name": "x" * 81, "query": "q=x"}, "name"), ({"name": "a\0", "query": "q=x"}, "name"),
    ({"name": "\u200b \u2060", "query": "q=x"}, "name"),
    ({"name": "x", "query": "nothing=1"}, "query"), ({"name": "x", "query": "status=odd"}, "query"),
    ({"name": 3, "query": "q=x"}, "name"), ({"name": "x", "query": "rating"}, "query"),
    ({"name": "x", "query": "q=x&javascript:alert(1)"}, "query"),
    ({"name": "x", "query": "q=%00"}, "query"), ({"name": "x", "query": "q=x", "owner": "me"}, "owner")])
def test_what_is_no_view_is_refused(client: Client, body: dict[str, Any], field: str) -> None:
    assert field in is_problem(client.call("POST", "/views", json=body), 422)["errors"]
