"""GET /history: newest first, in pages by key, as JSON or as a page."""
import html

import pytest

from tests.client import Client, eventually
from tests.contract import is_problem
from tests.exchange import Gate
from tests.service import Service, one_database
from tests.steps import answer, held
from tests.upstream import Upstream


@pytest.fixture(scope="module")
def ids(client: Client) -> list[int]:
    """Some completions, oldest first."""
    streams = [client.stream_text(f"Prompt number {i}") for i in range(7)]
    for stream in streams:
        stream.text()
    return [stream.completion_id for stream in streams]


def listed(client: Client, **query: object) -> tuple[list[int], int | None]:
    page = client.history(**query)
    assert set(page) == {"data", "next_before"}
    return [item["id"] for item in page["data"]], page["next_before"]


def test_the_newest_come_first(client: Client, ids: list[int]) -> None:
    newest, _ = listed(client, limit=7)
    assert newest == sorted(newest, reverse=True)
    assert set(ids) <= set(listed(client, limit=100)[0])


def test_pages_give_each_once_and_end_with_null(client: Client, ids: list[int]) -> None:
    seen: list[int] = []
    before: int | None = ids[-1] + 1
    while before:
        page, before = listed(client, limit=3, before=before)
        seen += page
    everything, _ = listed(client, limit=100, before=ids[-1] + 1)
    assert seen[:len(everything)] == everything
    assert len(seen) == len(set(seen)) and seen[-1] == min(seen)
    assert listed(client, before=seen[-1]) == ([], None)


def test_what_is_new_meanwhile_does_not_shift_the_pages(client: Client, ids: list[int]) -> None:
    first, before = listed(client, limit=2)
    client.stream_text("One more").text()
    second, _ = listed(client, limit=2, before=before)
    assert first[-1] > second[0] and not set(first) & set(second)


def test_twenty_are_given_unless_told_otherwise_and_never_more_than_a_hundred(service: Service) -> None:
    database = service.database
    assert database
    for _ in range(max(0, 101 - database.count())):
        service.client.stream_text("Hello").text()
    assert len(listed(service.client)[0]) == 20
    page, before = listed(service.client, limit=100)
    assert len(page) == 100 and before == page[-1]


@pytest.mark.parametrize("query", [
    "limit=0", "limit=101", "limit=-1", "limit=ten", "limit=", "limit=1.5", "limit=" + "9" * 30,
    "before=x", "before=-1", "before=" + "9" * 30])
def test_a_wrong_page_is_refused(client: Client, query: str) -> None:
    assert query.split("=")[0] in is_problem(client.get(f"/history?{query}"), 422)["errors"]


@pytest.mark.parametrize("completion_id", ["999999999", "9" * 30, "abc", "-1"])
def test_what_is_not_there_is_not_found(client: Client, completion_id: str) -> None:
    is_problem(client.get(f"/history/{completion_id}"), 404)


@pytest.mark.parametrize(("accept", "expected"), [
    (None, "application/json"), ("*/*", "application/json"), ("application/json", "application/json"),
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
    ("application/json, text/html;q=0.5", "application/json")])
@pytest.mark.parametrize("path", ["/history", "/history/{id}"])
def test_accept_chooses_between_json_and_a_page(
        client: Client, ids: list[int], path: str, accept: str | None, expected: str) -> None:
    response = client.get(path.format(id=ids[0]), headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith(expected)
    assert "Accept" in response.headers["Vary"]


def test_the_pages_show_prompts_answers_and_the_way_on(client: Client, ids: list[int]) -> None:
    page = html.unescape(client.page(f"/history?limit=3&before={ids[-1] + 1}").text)
    for i in (6, 5, 4):
        assert f"Prompt number {i}" in page and f"/history/{ids[i]}" in page
    assert page.index("Prompt number 6") < page.index("Prompt number 4")
    assert "Prompt number 3" not in page
    assert f"before={ids[4]}" in page


def test_the_page_of_one_shows_all_about_it_and_its_conversation(client: Client, upstream: Upstream) -> None:
    first = client.stream_text("The first prompt")
    first.text()
    script = upstream.script(*answer("The second ", "answer"))
    second = client.stream_text(script.prompt, conversation_id=first.conversation_id, system="Be brief.")
    second.text()
    page = html.unescape(client.page(f"/history/{second.completion_id}").text)
    for shown in (script.prompt, "The second answer", "The first prompt", "Hello from the scripted model.", "completed",
                  "scripted-model-0001", "Be brief.", f"/history/{first.completion_id}"):
        assert shown in page, f"the page does not show {shown!r}"


def test_an_answer_that_is_being_written_is_shown_as_it_stands(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    stream = client.stream_events(upstream.script(*held(gate, "so far so good", " and on")).prompt)
    stream.until("delta")
    eventually(lambda: client.history(stream.completion_id)["response"] == "so far so good", 2, "storing")
    row = client.history(stream.completion_id)
    assert (row["status"], row["duration_ms"], row["finish_reason"]) == ("in_progress", None, None)
    assert client.history(limit=1)["data"][0]["response"] == "so far so good"
    assert "so far so good" in client.page(f"/history/{stream.completion_id}").text
    gate.open()
    assert stream.end().name == "completed"
    assert client.history(stream.completion_id)["response"] == "so far so good and on"


@one_database
def test_an_empty_history_is_an_empty_list(start: object) -> None:
    service: Service = start(WEB_CONCURRENCY=1)  # type: ignore[operator]
    assert service.client.history() == {"data": [], "next_before": None}
    assert service.client.page("/history").status_code == 200
