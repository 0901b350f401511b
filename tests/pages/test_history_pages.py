"""The history in the browser: the list, one completion with all about it, and both live."""
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Client
from tests.exchange import Gate
from tests.pages.chat import SQLITE, expect
from tests.service import Service
from tests.steps import answer, close, delta, done, finish, status, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


def test_the_list_shows_each_with_its_status_in_words(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    good = client.stream_text(upstream.script(answer("All well.")).prompt)
    good.text()
    bad = client.stream_text(upstream.script(delta("half"), close()).prompt)
    bad.rest()
    client.ask(upstream.script(status(500)).prompt)
    page.goto(service.url + "/history")
    rows = page.locator(".row")
    expect(rows.nth(0)).to_contain_text("No text came. The model's server reported an error.")
    expect(rows.nth(1).locator(".badge")).to_have_text("Failed")
    expect(rows.nth(2).locator(".badge")).to_have_text("Completed")
    expect(rows.nth(2)).to_contain_text("7 tokens")
    rows.nth(2).get_by_role("link").click()
    expect(page).to_have_url(f"{service.url}/history/{good.completion_id}")


def test_the_pages_lead_from_the_newest_to_the_older(page: Any, service: Service, client: Client) -> None:
    for _ in range(3):
        client.stream_text("Hello").text()
    page.goto(service.url + "/history?limit=2")
    expect(page.locator(".row")).to_have_count(2)
    first = page.locator(".row").first.get_attribute("id")
    page.get_by_role("link", name="Older").click()
    expect(page.locator(f"#{first}")).to_have_count(0)
    page.get_by_role("link", name="Newest").click()
    expect(page.locator(f"#{first}")).to_have_count(1)


def test_a_users_thumb_is_no_verdict_of_a_reviewer(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(answer("Judge me")).prompt)
    stream.text()

    def facts(**said: str | None) -> str:
        assert client.call("POST", f"/history/{stream.completion_id}/reviews", json=said).status_code == 201
        page.goto(service.url + "/history")
        row = page.locator(f"#completion-{stream.completion_id}")
        return " | ".join(row.locator(":is(.verdict, .badge + span)").all_inner_texts())
    assert facts(role="user", rating="good") == "Good, says the user"
    assert facts(note="Only a note") == "Reviewed | Good, says the user"
    assert facts(rating="bad") == "Bad | Good, says the user"
    assert facts(note="Another note") == "Bad | Good, says the user"
    assert facts(role="user", rating=None) == "Bad"


def test_an_empty_history_says_why_and_what_to_do(page: Any, start: Any) -> None:
    service = start(WEB_CONCURRENCY=1)
    page.goto(service.url + "/history")
    expect(page.get_by_role("heading", name="Nothing here yet")).to_be_visible()
    page.get_by_role("link", name="Send the first prompt").click()
    expect(page.get_by_label("Your prompt")).to_be_visible()


def test_a_live_one_is_shown_live_in_the_list(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    gates = [Gate(), Gate()]
    script = upstream.script(delta("first "), wait_for(gates[0]), delta("second"), wait_for(gates[1]), finish(), done())
    stream = client.stream_text(script.prompt)
    page.goto(service.url + "/history")
    row = page.locator(f"#completion-{stream.completion_id}")
    expect(row.locator(".badge")).to_have_text("Being written")
    row.get_by_role("link").focus()
    gates[0].open()
    expect(row.locator(".row-text")).to_have_text("first second")
    gates[1].open()
    expect(row.locator(".badge")).to_have_text("Completed")
    expect(row.get_by_role("link")).to_be_focused()


@pytest.mark.parametrize("is_older", [False, True], ids=["the newest page", "an older page"])
def test_who_comes_back_to_the_list_sees_what_was_judged(
        new_page: Callable[..., Any], service: Service, client: Client, upstream: Upstream, is_older: bool) -> None:
    page = new_page()  # in the one that tests share, a clock that was set once hides how a page was reached
    pair = [client.stream_text(upstream.script(answer(text)).prompt) for text in ("One", "Two")]
    for stream in pair:
        stream.text()
    shown = pair[not is_older].completion_id
    page.goto(f"{service.url}/history?limit=1" + (f"&before={shown + 1}" if is_older else ""))
    row = page.locator(f"#completion-{shown}")
    row.get_by_role("link").click()
    page.locator("html.js").wait_for()
    page.keyboard.press("g")
    expect(page.locator('[data-part="said"]')).to_contain_text("Good by local")
    page.go_back()
    expect(row.locator(".verdict")).to_have_text("Good")


def test_a_row_that_does_not_fit_any_more_says_so(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    pair = [client.stream_text(upstream.script(answer(text)).prompt) for text in ("One", "Two")]
    for stream in pair:
        stream.text()
    page.goto(f"{service.url}/history?reviewed=no&status=completed")
    page.locator("html.js").wait_for()
    older, newer = (page.locator(f"#completion-{stream.completion_id}") for stream in pair)
    for row, stream in ((older, pair[0]), (newer, pair[1])):
        client.call("POST", f"/history/{stream.completion_id}/reviews", json={"rating": "bad"})
        expect(row.locator(".badge")).to_have_text("No longer in this list")


def test_one_completion_shows_all_about_it(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    first = client.stream_text(upstream.script(answer("**Bold** words")).prompt, temperature=0.5)
    first.text()
    client.stream_text(upstream.script(answer("Second.")).prompt, conversation_id=first.conversation_id).text()
    page.goto(f"{service.url}/history/{first.completion_id}")
    shown = page.locator('[data-part="answer"]')
    expect(shown.locator("strong")).to_have_text("Bold")
    page.get_by_role("link", name="Raw").click()
    expect(shown).to_have_text("**Bold** words")
    page.get_by_role("link", name="As shown").click()
    expect(shown.locator("strong")).to_have_text("Bold")
    facts = page.locator(".facts")
    known = {"Temperature": "0.5", "Input tokens": "11", "Client": "python-requests", "Came through": "the API"}
    missing = {"Longest answer": "not set", "System message": "none was sent"}
    for label, value in (known | missing).items():
        expect(facts.locator(".fact", has=page.get_by_text(label, exact=True))).to_contain_text(value)
    empty = facts.locator("dd").evaluate_all("found => found.filter(dd => !dd.textContent.trim()).length")
    assert empty == 0, "what is empty says why"
    expect(page.locator(".talk > li")).to_have_count(2)
    expect(page.locator(".talk > li").last).to_contain_text("Second.")
    expect(page.locator(".talk > li[aria-current]")).to_contain_text("This one")


def test_a_live_one_is_shown_live_on_its_own_page(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    gate = Gate()
    stream = client.stream_text(upstream.script(delta("first "), wait_for(gate), delta("second"), finish(), done()).prompt)
    page.goto(f"{service.url}/history/{stream.completion_id}")
    expect(page.locator('[data-part="answer"]')).to_have_text("first")
    expect(page.locator(".page-head .badge")).to_have_text("Being written")
    gate.open()
    expect(page.locator('[data-part="answer"]')).to_have_text("first second")
    expect(page.locator(".page-head .badge")).to_have_text("Completed")
    expect(page.locator(".facts")).to_contain_text("7")


def test_a_failed_one_without_text_says_so(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    refused = client.ask(upstream.script(status(401)).prompt)
    page.goto(f"{service.url}/history/{refused.headers['Completion-Id']}")
    expect(page.locator('[data-refresh="empty"]')).to_contain_text("No text came.")
    expect(page.locator(".facts")).to_contain_text("not counted by the model's server")


def test_one_that_is_not_whole_offers_to_be_tried_again(page: Any, service: Service, client: Client, upstream: Upstream) -> None:
    script = upstream.script(delta("half of it"), close()).then(answer("all of it"))
    stream = client.stream_text(script.prompt)
    stream.rest()
    page.goto(f"{service.url}/history/{stream.completion_id}")
    expect(page.locator(".note")).to_contain_text("What came so far is kept.")
    page.get_by_role("button", name="Run again").click()
    expect(page.locator(".pair .answer").last).to_contain_text("of it")
    client.finished(client.history()["data"][0]["id"])
    row = client.history()["data"][0]
    assert (row["regenerated_from"], row["response"]) == (stream.completion_id, "all of it")
