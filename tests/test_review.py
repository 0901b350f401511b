"""Judging: reviews that are only ever added, tags, and what both do to the completion."""
import re
import threading
from typing import Any

import pytest
import requests

from tests.client import Client, eventually
from tests.contract import is_problem
from tests.exchange import Gate
from tests.service import Database
from tests.steps import answer, held
from tests.upstream import Upstream

ANA = {"Cookie": "reviewer=Ana"}
BOB = {"Cookie": "reviewer=Bob"}


@pytest.fixture
def completion_id(client: Client, upstream: Upstream) -> int:
    stream = client.stream_text(upstream.script(answer("An answer.")).prompt)
    stream.text()
    return stream.completion_id


def say(client: Client, completion_id: int, headers: dict[str, str] | None = None, **said: Any) -> dict[str, Any]:
    response = client.call("POST", f"/history/{completion_id}/reviews", json=said, headers=headers)
    assert response.status_code in (200, 201), response.text
    return response.json()


def reviews(client: Client, completion_id: int, **query: Any) -> list[dict[str, Any]]:
    return client.get(f"/history/{completion_id}/reviews", params=query).json()["data"]


def standing(database: Database, completion_id: int) -> tuple[str | None, bool]:
    """The completion's rating, and whether a reviewer has judged it."""
    row = database.completion(completion_id)
    return row["rating"], row["reviewed_at"] is not None


def test_a_review_is_kept_with_who_gave_it_and_when(client: Client, database: Database, completion_id: int) -> None:
    said = {"rating": "bad", "reason": " wrong\n  fact ", "note": "Line\r\nline", "correction": "So: ﷽ 🦊"}
    response = client.call("POST", f"/history/{completion_id}/reviews", json=said, headers=ANA)
    assert response.status_code == 201
    (review,) = reviews(client, completion_id)
    assert review == response.json()
    assert review.pop("created_at").endswith("Z") and review.pop("id")
    assert review == {"completion_id": completion_id, "reviewer": "Ana", "role": "reviewer", "rating": "bad",
                      "reason": "wrong fact", "note": "Line\nline", "correction": "So: ﷽ 🦊"}
    assert standing(database, completion_id) == ("bad", True)


def test_nobody_overwrites_anybody_and_the_newest_rating_of_a_reviewer_counts(
        client: Client, database: Database, completion_id: int) -> None:
    say(client, completion_id, role="user", rating="bad")
    assert standing(database, completion_id) == ("bad", False), "a thumb is not a review"
    say(client, completion_id, ANA, rating="good")
    say(client, completion_id, role="user", rating="good")
    say(client, completion_id, BOB, rating="bad")
    say(client, completion_id, ANA, note="I still think so.")
    assert standing(database, completion_id) == ("bad", True)
    assert [(review["reviewer"], review["role"], review["rating"]) for review in reviews(client, completion_id)] == [
        ("Ana", "reviewer", None), ("Bob", "reviewer", "bad"), ("local", "user", "good"), ("Ana", "reviewer", "good"),
        ("local", "user", "bad")]
    assert [review["reviewer"] for review in reviews(client, completion_id, limit=2)] == ["Ana", "Bob"]


def test_a_user_can_take_a_thumb_back(client: Client, database: Database, completion_id: int) -> None:
    say(client, completion_id, role="user", rating="good")
    say(client, completion_id, role="user", rating=None)
    assert standing(database, completion_id) == (None, False)


def test_the_same_judgement_twice_in_a_row_is_one(client: Client, completion_id: int) -> None:
    first = say(client, completion_id, ANA, rating="good", note="Fine.")
    again = client.call("POST", f"/history/{completion_id}/reviews", json={"rating": "good", "note": "Fine."}, headers=ANA)
    assert (again.status_code, again.json()) == (200, first)
    say(client, completion_id, BOB, rating="good", note="Fine.")
    say(client, completion_id, ANA, rating="good", note="Fine.")
    assert len(reviews(client, completion_id)) == 3, "in a row: Bob spoke between"


@pytest.mark.parametrize(("said", "field"), [
    ({}, "rating"), ({"note": " \n"}, "rating"), ({"rating": None}, "rating"), ({"rating": "fair"}, "rating"),
    ({"rating": 1}, "rating"),
    ({"rating": "good", "stars": 5}, "stars"), ({"rating": "good", "role": "admin"}, "role"), ({"reason": "x" * 201}, "reason"),
    ({"note": "é" * 32769}, "note"), ({"correction": "x" * 65537}, "correction"), ({"note": "a\0b"}, "note"),
    ({"correction": "\ud800"}, "correction"), ({"reason": ["x"]}, "reason")])
def test_what_is_no_judgement_is_refused_by_its_field(
        client: Client, completion_id: int, said: dict[str, Any], field: str) -> None:
    response = client.call("POST", f"/history/{completion_id}/reviews", json=said)
    assert field in is_problem(response, 422)["errors"]
    assert reviews(client, completion_id) == []


def test_the_longest_texts_are_taken(client: Client, completion_id: int) -> None:
    review = say(client, completion_id, note="n" * 65536, correction="c" * 65536, reason="r" * 200)
    assert (len(review["note"]), len(review["correction"]), len(review["reason"])) == (65536, 65536, 200)
    form = client.call("POST", f"/history/{completion_id}/reviews", data={"note": "é" * 32768}, allow_redirects=False)
    assert form.status_code == 303


@pytest.mark.parametrize("path", ["reviews", "tags"])
@pytest.mark.parametrize("missing", ["999999999", "9" * 30])
def test_what_is_not_there_cannot_be_judged(client: Client, path: str, missing: str) -> None:
    body = {"reviews": {"rating": "good"}, "tags": {"add": "x"}}[path]
    is_problem(client.call("POST", f"/history/{missing}/{path}", json=body), 404)
    is_problem(client.get(f"/history/{missing}/reviews"), 404)


def test_what_was_deleted_cannot_be_judged(client: Client, database: Database, completion_id: int) -> None:
    database.execute("DELETE FROM completions WHERE id = :id", id=completion_id)
    is_problem(client.call("POST", f"/history/{completion_id}/reviews", json={"rating": "bad"}), 404)
    is_problem(client.call("PUT", f"/history/{completion_id}/tags/late"), 404)


def test_an_answer_is_judged_once_it_has_ended(client: Client, upstream: Upstream, database: Database) -> None:
    gate = Gate()
    stream = client.stream_text(upstream.script(*held(gate, "so far", " and on")).prompt)
    stream.read_until("so far")
    problem = is_problem(client.call("POST", f"/history/{stream.completion_id}/reviews", json={"rating": "good"}), 409)
    assert "still being written" in problem["detail"]
    is_problem(client.call("PUT", f"/history/{stream.completion_id}/tags/early"), 409)
    gate.open()
    stream.text()
    say(client, stream.completion_id, rating="good")
    row = database.completion(stream.completion_id)
    assert (row["status"], row["response"], row["rating"]) == ("completed", "so far and on", "good")


def test_neither_an_ending_nor_a_judgement_at_the_same_moment_is_lost(
        client: Client, upstream: Upstream, database: Database) -> None:
    """Judgements knock all the time while the answer ends: the first one after the end counts, and the end stays whole."""
    for _ in range(3):
        gate = Gate()
        stream = client.stream_text(upstream.script(*held(gate, "so far", " and on")).prompt)
        stream.read_until("so far")
        codes: list[int] = []

        def knock(stream: Any = stream, codes: list[int] = codes) -> None:
            while 201 not in codes and 200 not in codes and len(codes) < 500:
                codes.append(client.call("POST", f"/history/{stream.completion_id}/reviews", json={"rating": "bad"}).status_code)
        knocking = [threading.Thread(target=knock) for _ in range(3)]
        for thread in knocking:
            thread.start()
        eventually(lambda codes=codes: len(codes) > 3)
        gate.open()
        assert stream.text() == "so far and on"
        for thread in knocking:
            thread.join(20)
        assert set(codes) <= {409, 201, 200} and codes.count(201) == 1, codes
        row = database.completion(stream.completion_id)
        assert (row["status"], row["response"], row["rating"]) == ("completed", "so far and on", "bad")
        assert len(reviews(client, stream.completion_id)) == 1


def test_many_judges_at_once_are_all_heard(client: Client, database: Database, completion_id: int) -> None:
    def one(name: str) -> None:
        say(client, completion_id, {"Cookie": f"reviewer={name}"}, rating="good" if name < "m" else "bad")
    threads = [threading.Thread(target=one, args=(name,)) for name in "abcxyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    heard = reviews(client, completion_id)
    assert {review["reviewer"] for review in heard} == set("abcxyz")
    assert standing(database, completion_id) == (heard[0]["rating"], True), "the newest one's rating is the completion's"


def test_a_form_is_led_on_and_never_to_another_site(client: Client, completion_id: int) -> None:
    def send(**form: str) -> requests.Response:
        return client.call("POST", f"/history/{completion_id}/reviews", data=form, allow_redirects=False)
    response = send(rating="good", note="", then="/review?status=failed&before=7")
    assert (response.status_code, response.headers["Location"]) == (303, "/review?status=failed&before=7")
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "\t//evil.example"):
        assert send(rating="bad", then=elsewhere).status_code == 422
    assert [review["rating"] for review in reviews(client, completion_id)] == ["good"]


def test_a_name_is_typed_once_and_stays_with_the_browser(client: Client, completion_id: int) -> None:
    response = client.call("POST", "/review/name", data={"name": "  Žofie   🦊 "}, allow_redirects=False)
    assert response.status_code == 303
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert say(client, completion_id, {"Cookie": cookie.partition(";")[0]}, rating="good")["reviewer"] == "Žofie 🦊"
    for name in ("", " ", "x" * 51, "a\u202eb", "a\0b"):
        assert client.call("POST", "/review/name", data={"name": name}).status_code == 422
    for odd in ("", '"\\000"', "x" * 51, '"\\342\\200\\256"'):
        assert say(client, completion_id, {"Cookie": f"reviewer={odd}"}, note=f"by {odd}")["reviewer"] == "local"


def test_tags_are_put_and_taken_away_by_name(client: Client, database: Database, completion_id: int) -> None:
    def tags() -> list[str]:
        query = "SELECT name, tagged_by FROM tags WHERE completion_id = :id ORDER BY name"
        return [f"{row['name']} by {row['tagged_by']}" for row in database.rows(query, id=completion_id)]
    address = f"/history/{completion_id}/tags"
    assert client.call("PUT", f"{address}/%20to%20%20fix%20", headers=ANA).status_code == 201
    again = client.call("PUT", f"{address}/to%20fix", headers=BOB)
    assert (again.status_code, again.json()) == (200, {"name": "to fix"})
    assert client.call("PUT", f"{address}/a%2Fb%3F%23%26").status_code == 201
    assert client.call("POST", address, json={"add": "🦊"}).json() == {"data": ["a/b?#&", "to fix", "🦊"]}
    assert tags() == ["a/b?#& by local", "to fix by Ana", "🦊 by local"]
    assert client.call("DELETE", f"{address}/to%20fix").status_code == 204
    assert client.call("DELETE", f"{address}/to%20fix").status_code == 204
    form = client.call("POST", address, data={"remove": "a/b?#&", "then": f"/history/{completion_id}"}, allow_redirects=False)
    assert form.status_code == 303
    assert tags() == ["🦊 by local"]
    known = client.get(address).json()
    assert known["data"] == ["🦊"]
    assert [f"{one['name']} {one['change']} by {one['changed_by']}" for one in known["changes"]] == [
        "a/b?#& removed by local", "to fix removed by local", "🦊 added by local", "a/b?#& added by local", "to fix added by Ana"]
    page = client.page(f"/history/{completion_id}").text
    assert re.search(r"Tag <span[^>]*>to fix</span> removed by <bdi>local</bdi>", page), "who took it away is told"
    for wrong in ("%20", "%E2%80%8B%20%E2%81%A0", "x" * 51, "a%00b"):
        is_problem(client.call("PUT", f"{address}/{wrong}"), 422)
    is_problem(client.call("POST", address, json={"colour": "red"}), 422)
    is_problem(client.call("POST", f"/history/{2**63 + 1}/tags", json={}), 404)
