"""Who may do what, from outside: strangers nothing, users what is theirs, reviewers and admins the rest."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from llmstream import create_app
from llmstream.access import ADMIN, ASK, EXPORT, JUDGE, PUBLIC, READ, ROLES, RULES
from tests.contract import delivery_of
from tests.exchange import Gate
from tests.people import PAGE, Team
from tests.steps import answer, held
from tests.upstream import Upstream

app = create_app({"DATABASE_URL": "sqlite:////dev/null/none.db", "SECRET_KEY": "x" * 32})
ROUTES = sorted(
    (rule.endpoint, method, rule.rule)
    for rule in app.url_map.iter_rules()
    for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
)
NOBODYS = 4_000_000_000  # an id that nothing has


def filled(rule: str, number: int = NOBODYS) -> str:
    """An address of this route, with a number for each id and something for other parts."""
    rule = re.sub(r"<int:\w+>", str(number), rule)
    return re.sub(r"<any\(([^)]*)\):\w+>", lambda found: found[1].split(",")[0].strip("'\" "), rule).replace("<path:name>", "a")


PRIVATE = [(method, filled(rule)) for endpoint, method, rule in ROUTES if RULES.get(endpoint) != PUBLIC]
NEEDING = {
    permission: [(method, filled(rule)) for endpoint, method, rule in ROUTES if RULES.get(endpoint) == permission]
    for permission in (JUDGE, EXPORT, ADMIN)
}


def test_what_follows_anothers_prompt_that_was_run_again_is_exported_as_it_was_sent(team: Team, upstream: Upstream) -> None:
    bob, rita = team.by("bob"), team.by("rita")
    first = bob.stream_text(upstream.script(*answer("one")).prompt)
    first.text()
    twice = upstream.script(*answer("two")).then(*answer("two again"))
    second = bob.stream_text(twice.prompt, conversation_id=first.conversation_id)
    second.text()
    aside = rita.stream_text(regenerate=second.completion_id)
    aside.text()
    last = upstream.script(*answer("three"))
    rita.stream_text(last.prompt, conversation_id=aside.conversation_id).text()
    assert len(last.call().messages) == 5
    *_, line = rita.get(f"/history.chat.jsonl?conversation_id={aside.conversation_id}").text.splitlines()
    sent = [{name: one[name] for name in ("role", "content")} for one in json.loads(line)["messages"]][:-1]
    assert sent == last.call().messages


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    assert set(RULES) == {rule.endpoint for rule in app.url_map.iter_rules()}
    assert set(RULES.values()) - {PUBLIC, "anybody"} == {ASK, READ, JUDGE, EXPORT, ADMIN} == set(ROLES["admin"])


def test_what_is_public_is_the_way_in_and_what_the_pages_are_made_of() -> None:
    assert {endpoint for endpoint, rule in RULES.items() if rule == PUBLIC} <= {
        "static",
        "login.form",
        "login.enter",
        "openapi.document",
    }


def test_strangers_are_asked_who_they_are(team: Team) -> None:
    for method, path in [*PRIVATE, ("GET", "/no/such/page"), ("POST", "/history")]:
        refused = team.service.client.call(method, path, json={"prompt": "hello"} if method != "GET" else None)
        assert refused.status_code == 401, f"{method} {path}"
        assert refused.json()["status"] == 401 and refused.headers["WWW-Authenticate"] == "Bearer", f"{method} {path}"
        if method == "GET":
            led = team.service.client.get(path, headers=PAGE, allow_redirects=False)
            assert led.status_code == 302 and led.headers["Location"].startswith("/login?next="), path


@pytest.mark.parametrize(
    ("permission", "role", "name"),
    [(JUDGE, "user", "bob"), (EXPORT, "user", "bob"), (ADMIN, "user", "bob"), (ADMIN, "reviewer", "rita")],
)
def test_what_a_role_may_not_do_is_refused(team: Team, permission: str, role: str, name: str) -> None:
    assert permission not in ROLES[role] and NEEDING[permission]
    for method, path in NEEDING[permission]:
        refused = team.by(name).call(method, path, json={"name": "x"} if method != "GET" else None)
        assert refused.status_code == 403 and permission in refused.json()["detail"], f"{method} {path}"


class Answer(NamedTuple):
    id: int
    conversation_id: int


@pytest.fixture(scope="module")
def eves(team: Team, upstream: Upstream) -> Iterator[Answer]:
    """An answer of eve's."""
    stream = team.by("eve").stream_text(upstream.script(*answer("a secret of eve's")).prompt)
    assert stream.text() == "a secret of eve's"
    delivery_of(team.by("eve"), stream.completion_id)  # written down a moment after the end
    yield Answer(stream.completion_id, stream.conversation_id)


WITH_AN_ID: list[tuple[str, str, Any]] = [
    ("GET", "/history/{id}", None),
    ("GET", "/history/{id}?view=raw", None),
    ("GET", "/history/{id}/reviews", None),
    ("GET", "/history/{id}/compare/{id}", None),
    ("GET", "/stream/{id}", None),
    ("GET", "/stream/{id}?after=3", None),
    ("DELETE", "/stream/{id}", None),
    ("POST", "/stream", {"regenerate": "{id}"}),
    ("POST", "/stream", {"prompt": "go on", "conversation_id": "{talk}"}),
    ("POST", "/history/{id}/reviews", {"role": "user", "rating": "bad"}),
    ("POST", "/history/{id}/reviews", {"rating": "bad"}),
    ("POST", "/history/{id}/again", None),
    ("PUT", "/history/{id}/tags/a", None),
    ("DELETE", "/history/{id}/tags/a", None),
    ("POST", "/history/{id}/tags", {"add": "a"}),
    ("PUT", "/review/{id}/lock", None),
    ("DELETE", "/history/{id}", None),
    ("DELETE", "/conversations/{talk}", None),
    ("DELETE", "/views/{view}", None),
    ("POST", "/admin/keys/{key}/revoke", None),
    ("POST", "/admin/users/{user}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), WITH_AN_ID, ids=lambda value: str(value) if isinstance(value, str) else "")
@pytest.mark.parametrize("headers", [{}, PAGE], ids=["program", "page"])
def test_what_is_not_mine_looks_like_what_is_not_there(
    team: Team, eves: Answer, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    view = team.by("eve").call("POST", "/views", json={"name": "eve's", "query": "status=failed"}).json()["id"]
    ids = {"id": eves.id, "talk": eves.conversation_id, "view": view, "key": 4, "user": team.user_id("eve")}
    before = team.database.completion(eves.id)
    told = []
    for numbers in (ids, dict.fromkeys(ids, NOBODYS)):
        sent = body and {name: numbers[value.strip("{}")] if "{" in value else value for name, value in body.items()}
        response = team.by("bob").call(method, path.format(**numbers), json=sent, headers=headers, allow_redirects=False)
        text = re.sub(r'nonce="[^"]*"', "", response.text)
        told.append((response.status_code, re.sub(r"(There is no \w+) \d+", r"\1 N", text)))
    assert told[0] == told[1]
    assert told[0][0] in (403, 404) or "/views/" in path
    assert "secret" not in str(told) and team.database.completion(eves.id) == before
    assert team.database.value("SELECT count(*) FROM saved_views WHERE id = :id", id=view) == 1


def test_lists_and_counts_show_a_user_what_is_theirs(team: Team, eves: Answer, upstream: Upstream) -> None:
    mine = team.by("bob").stream_text(upstream.script(*answer("an answer of bob's")).prompt)
    mine.text()
    owners = {row["owner"] for row in team.by("bob").history(limit=100)["data"]}
    assert owners == {"bob"}
    for query in (f"conversation_id={eves.conversation_id}", "owner=eve", "q=secret", f"before={eves.id + 1}&owner=eve"):
        assert team.by("bob").get(f"/history?{query}").json()["data"] == [], query
    for path in ("/", "/history", f"/history/{mine.completion_id}", f"/?conversation={mine.conversation_id}"):
        page = team.by("bob").page(path)
        assert page.status_code == 200 and not re.search(r"\beve\b", page.text), path
        for hidden in ('href="/review', 'href="/export', 'href="/delete', 'href="/admin', "/tags"):
            assert hidden not in page.text, f"{path} shows {hidden}"
    shown = [view["id"] for view in team.by("bob").get("/views").json()["data"]]
    owner = "SELECT owner FROM saved_views WHERE id = :id"
    assert all(team.database.value(owner, id=view_id) == "bob" for view_id in shown)
    for way in ("older", "newer"):
        led = team.by("bob").get(f"/history/{eves.id}/{way}", allow_redirects=False).headers["Location"]
        other = re.match(r"/history/(\d+)", led)
        assert not other or team.database.completion(int(other[1]))["owner"] == "bob"
    assert team.by("bob").get(f"/?conversation={eves.conversation_id}").status_code == 404


def test_a_repeated_key_of_somebody_else_is_a_new_prompt(team: Team, upstream: Upstream) -> None:
    script = upstream.script(*answer("once"))
    keyed = {"Idempotency-Key": f"the same of two {team.database.kind}"}
    ids = {team.by(name).stream_text(script.prompt, headers=keyed).completion_id for name in ("bob", "eve")}
    assert len(ids) == 2


def test_a_reviewer_sees_judges_and_exports_everything(team: Team, eves: Answer) -> None:
    rita = team.by("rita")
    assert rita.history(eves.id)["response"] == "a secret of eve's"
    assert b"a secret of eve's" in rita.reattach_text(eves.id).rest()
    judged = rita.call("POST", f"/history/{eves.id}/reviews", json={"rating": "good", "note": "fine"})
    assert judged.status_code == 201 and judged.json()["reviewer"] == "rita"
    assert rita.call("PUT", f"/history/{eves.id}/tags/shared").status_code == 201
    assert "a secret of eve's" in rita.get("/history.jsonl?owner=eve").text
    assert team.database.completion(eves.id)["rating"] == "good"


def test_a_reviewer_runs_anothers_prompt_again_without_touching_the_conversation(team: Team, upstream: Upstream) -> None:
    first = team.by("eve").stream_text(upstream.script(*answer("one")).prompt)
    first.text()
    script = upstream.script(answer("two"), answer("two"))
    second = team.by("eve").stream_text(script.prompt, conversation_id=first.conversation_id)
    second.text()
    page = team.by("rita").page(f"/?conversation={first.conversation_id}").text
    assert re.search(r'<form class="composer"[^>]* hidden>', page) and "begin one of your own" in page
    refused = team.by("rita").call("POST", "/stream", json={"prompt": "And?", "conversation_id": first.conversation_id})
    assert refused.status_code == 403 and "somebody else" in refused.json()["detail"]
    again = team.by("rita").call("POST", f"/history/{second.completion_id}/again", allow_redirects=False)
    its_id = int(again.headers["Location"].rsplit("/", 1)[1])
    run = team.by("rita").finished(its_id)
    assert run["owner"] == "rita" and run["conversation_id"] != first.conversation_id
    assert run["regenerated_from"] == second.completion_id
    sent = script.call(2).body["messages"]
    assert sent == script.call(1).body["messages"] and len(sent) == 3
    assert f"/compare/{its_id}" in team.by("rita").page(f"/history/{second.completion_id}").text
    assert f"/compare/{its_id}" not in team.by("eve").page(f"/history/{second.completion_id}").text
    assert team.by("eve").history(second.completion_id)["conversation"] == [first.completion_id, second.completion_id]
    example = json.loads(team.by("rita").get(f"/history.chat.jsonl?after={its_id - 1}&owner=rita").text.splitlines()[0])
    assert [(one["role"], one["content"]) for one in example["messages"][:-1]] == [(one["role"], one["content"]) for one in sent]


def test_another_answer_is_stopped_by_an_admin_only(team: Team, upstream: Upstream) -> None:
    gate = Gate()
    stream = team.by("eve").stream_text(upstream.script(*held(gate, "so far", "never")).prompt)
    stream.more()
    refused = team.by("rita").call("DELETE", f"/stream/{stream.completion_id}")
    assert refused.status_code == 403 and team.database.completion(stream.completion_id)["status"] == "in_progress"
    assert team.by("ana").call("DELETE", f"/stream/{stream.completion_id}").json()["status"] == "cancelled"
    gate.open()


def test_the_thumb_of_the_user_is_for_who_asked(team: Team, eves: Answer) -> None:
    thumb = {"role": "user", "rating": "good"}
    for name in ("rita", "ana"):
        assert team.by(name).call("POST", f"/history/{eves.id}/reviews", json=thumb).status_code == 403
    assert team.by("eve").call("POST", f"/history/{eves.id}/reviews", json=thumb).status_code == 201


@pytest.mark.parametrize("scope", ["ask", "read", "judge", "export"])
def test_a_key_may_what_its_scope_says_and_no_more(team: Team, eves: Answer, scope: str) -> None:
    by = team.with_key(team.key("rita", scopes=scope)[1])
    thumbed = team.with_key(team.key("eve", scopes="read")[1]).call("POST", f"/history/{eves.id}/reviews", json={"role": "user"})
    assert thumbed.status_code == 403
    answers = {"ask": by.call("POST", "/stream", json={"prompt": "hello"}), "read": by.get("/history"),
               "judge": by.call("POST", f"/history/{eves.id}/reviews", json={"rating": "good", "note": scope}),
               "export": by.get("/history.csv?owner=nobody")}
    allowed = {name for name, answered in answers.items() if answered.ok}
    assert allowed == ({"read"} if scope == "read" else {scope})
    assert by.get(f"/stream/{eves.id}").status_code == (404 if scope == "ask" else 403)
    assert by.page("/").status_code == (200 if scope == "read" else 403)
    assert by.call("POST", "/", data={"prompt": "hello"}).status_code == 403, "its page shows what was said before"


def test_an_admin_deletes(team: Team, upstream: Upstream) -> None:
    going = team.by("eve").stream_text(upstream.script(*answer("soon gone")).prompt)
    going.text()
    assert team.by("rita").call("DELETE", f"/history/{going.completion_id}").status_code == 403
    assert team.by("ana").call("DELETE", f"/history/{going.completion_id}").status_code == 200
    assert team.by("eve").get(f"/history/{going.completion_id}").status_code == 404
    target = f"completion {going.completion_id}"
    (line,) = team.database.rows("SELECT * FROM audit WHERE action = 'delete' AND target = :target", target=target)
    assert line["actor"] == "ana" and line["remote_addr"] == "127.0.0.1"


def test_logins_keys_and_exports_stand_in_the_audit_trail(team: Team) -> None:
    team.by("rita").get("/history.csv?owner=nobody")
    done = {(row["actor"], row["action"]) for row in team.database.rows("SELECT actor, action FROM audit")}
    assert {
        ("command line", "user added"),
        ("ana", "login"),
        ("ana", "user added"),
        ("ana", "key added"),
        ("rita", "export"),
    } <= done
