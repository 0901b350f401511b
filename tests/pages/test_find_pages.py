"""Finding answers in the browser: filters, views, search, new ones as they come, and the keys."""
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.client import Client
from tests.pages.chat import SQLITE, expect
from tests.service import Service
from tests.steps import answer, close, delta
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


@pytest.fixture(params=[True, False], ids=["script", "no script"])
def either(new_page: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    """A page with JavaScript, and one without."""
    return new_page(java_script_enabled=request.param)


@pytest.fixture
def failed(client: Client, upstream: Upstream) -> int:
    stream = client.stream_text(upstream.script(delta("half"), close()).prompt)
    stream.rest()
    return stream.completion_id


@pytest.fixture
def completed(client: Client, upstream: Upstream) -> int:
    stream = client.stream_text(upstream.script(answer("All of it.")).prompt)
    stream.text()
    return stream.completion_id


@pytest.fixture
def timed(new_page: Callable[..., Any]) -> Iterator[Any]:
    """A page whose clock the test moves, with a profile of its own: in one that is shared the clock would stay for the next."""
    page = new_page()
    page.clock.install()
    return page


def query(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query, keep_blank_values=True)


def in_order(given: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: sorted(values) for name, values in given.items()}


def row(page: Any, completion_id: int) -> Any:
    return page.locator(f"#completion-{completion_id}")


def open_panel(page: Any, name: str) -> None:
    page.locator("summary", has_text=name).click()


def test_a_filter_is_chosen_seen_in_the_address_and_taken_away(
        either: Any, service: Service, completed: int, failed: int) -> None:
    either.goto(service.url + "/history")
    open_panel(either, "Status")
    either.get_by_label("Failed", exact=True).check()
    either.get_by_label("Incomplete", exact=True).check()
    either.get_by_role("button", name="Show these").and_(either.locator(":visible")).click()
    expect(row(either, failed)).to_be_visible()
    expect(row(either, completed)).to_have_count(0)
    assert query(either)["status"] == ["failed", "incomplete"]
    expect(either.locator("summary", has_text="Status")).to_contain_text("2")
    either.get_by_role("link", name=re.compile("^Remove: .*failed")).click()
    expect(row(either, failed)).to_have_count(0)
    either.get_by_role("link", name="Clear all").click()
    expect(row(either, completed)).to_be_visible()
    expect(row(either, failed)).to_be_visible()
    assert urlsplit(either.url).query == ""


def test_every_state_of_the_form_is_in_the_address(page: Any, service: Service, completed: int) -> None:
    state = ("status=completed&model=some-model&model=other-model&source=api&rating=none&rating=bad&tag=odd+%26+ends&reviewed=no"
             "&from=2026-01-02&to=2036-01-03&min_duration_ms=1&max_duration_ms=99&owner=%D7%A0%D7%95%D7%A2%D7%94&reason=made+up"
             "&conversation_id=5&q=%22two+words%22+pre*")
    page.goto(f"{service.url}/history?{state}")
    page.locator("html.js").wait_for()
    page.locator("#search").press("Enter")
    page.wait_for_url(lambda url: url != f"{service.url}/history?{state}")
    assert in_order(query(page)) == in_order(parse_qs(state))


def test_the_address_says_no_more_than_what_was_chosen(page: Any, service: Service, completed: int) -> None:
    page.goto(service.url + "/history?limit=50")
    page.locator("html.js").wait_for()
    page.get_by_role("searchbox").fill("cats & dogs")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**q=*")
    assert query(page) == {"limit": ["50"], "q": ["cats & dogs"]}
    page.go_back()
    expect(page.get_by_role("searchbox")).to_be_enabled()


def test_the_pages_of_a_filter_keep_it(either: Any, service: Service, client: Client, upstream: Upstream) -> None:
    for _ in range(2):
        client.stream_text(upstream.script(delta("half"), close()).prompt).rest()
    either.goto(service.url + "/history?status=failed&limit=1")
    first = either.locator(".row").get_attribute("id")
    either.get_by_role("link", name="Older").click()
    expect(either.locator(f"#{first}")).to_have_count(0)
    expect(either.locator(".row .badge")).to_have_text("Failed")
    either.get_by_role("link", name="Newest").click()
    expect(either.locator(f"#{first}")).to_be_visible()
    assert query(either) == {"status": ["failed"], "limit": ["1"]}


def test_where_nothing_matches_there_is_a_way_on(either: Any, service: Service, completed: int) -> None:
    either.goto(service.url + "/history?status=completed&owner=nobody")
    expect(either.get_by_role("heading", name="No answer matches")).to_be_visible()
    either.get_by_role("link", name="Without the person").click()
    expect(row(either, completed)).to_be_visible()


def test_the_same_set_leads_to_every_other_page(page: Any, service: Service, failed: int) -> None:
    page.goto(service.url + "/history?status=failed&source=api")
    others = {"Review": "/review", "Numbers for": "/stats", "Export": "/export", "Delete": "/delete"}
    for name, path in others.items():
        expect(page.get_by_role("link", name=f"{name} these")).to_have_attribute("href", f"{path}?status=failed&source=api")


def test_a_judged_answer_shows_it_in_its_row(page: Any, service: Service, completed: int, client: Client) -> None:
    client.call("POST", f"/history/{completed}/reviews", json={"rating": "bad"}).raise_for_status()
    page.goto(service.url + "/history")
    expect(row(page, completed).locator(".verdict")).to_have_text("Bad")


def test_a_view_is_saved_opened_and_deleted(either: Any, service: Service, failed: int, completed: int) -> None:
    name = f"Failed, for {failed}"
    either.goto(service.url + "/history?status=failed")
    either.locator(".views summary").click()
    either.get_by_label("Save these filters as").fill(name)
    either.get_by_role("button", name="Save", exact=True).click()
    expect(either.get_by_role("status").first).to_have_text(f"These filters are kept as “{name}”.")
    view = either.get_by_role("link", name=name)
    expect(view).to_have_attribute("aria-current", "page")
    either.get_by_role("link", name="Everything").click()
    expect(row(either, completed)).to_be_visible()
    view.click()
    expect(row(either, failed)).to_be_visible()
    expect(row(either, completed)).to_have_count(0)
    either.locator(".views summary").click()
    either.get_by_role("button", name=f"Delete the view {name}").click()
    expect(view).to_have_count(0)
    assert query(either) == {"status": ["failed"]}


def test_what_is_used_is_on_offer(page: Any, service: Service, client: Client, completed: int) -> None:
    client.call("PUT", f"/history/{completed}/tags/odd one").raise_for_status()
    page.goto(service.url + "/history")
    expect(row(page, completed).locator(".tag")).to_contain_text("odd one")
    open_panel(page, "Tags")
    page.get_by_label("odd one").check()
    open_panel(page, "Dates")
    page.get_by_label("From", exact=True).fill("2020-01-31")
    page.get_by_label("From", exact=True).press("Enter")
    expect(page.locator(".row")).to_have_count(1)
    assert query(page) == {"tag": ["odd one"], "from": ["2020-01-31"]}
    open_panel(page, "Dates")
    page.get_by_role("link", name="Today").click()
    expect(row(page, completed)).to_be_visible()
    assert query(page).keys() == {"from", "tag"}


def test_a_new_answer_comes_by_itself_where_it_fits_the_filter(
        timed: Any, service: Service, client: Client, upstream: Upstream, failed: int) -> None:
    timed.goto(service.url + "/history?status=failed")
    expect(row(timed, failed)).to_be_visible()
    timed.evaluate("window.isTheSame = true")
    client.stream_text(upstream.script(answer("All well.")).prompt).text()
    stream = client.stream_text(upstream.script(delta("half"), close()).prompt)
    stream.rest()
    timed.clock.run_for(3500)
    expect(timed.locator(".row").first).to_have_id(f"completion-{stream.completion_id}")
    assert timed.locator(".badge").all_text_contents().count("Completed") == 0
    assert timed.evaluate("window.isTheSame")


def test_nothing_moves_under_the_eyes_of_a_reader(timed: Any, service: Service, client: Client, completed: int) -> None:
    for _ in range(4):
        client.stream_text("Hello").text()
    timed.set_viewport_size({"width": 900, "height": 400})
    timed.goto(service.url + "/history")
    place = row(timed, completed)
    place.scroll_into_view_if_needed()
    before = place.bounding_box()
    new = client.stream_text("Hello")
    new.text()
    timed.clock.run_for(3500)
    button = timed.get_by_role("button", name="1 new answer")
    expect(button).to_be_in_viewport()
    expect(timed.locator("#announcer")).to_have_text("1 new answer")
    assert place.bounding_box() == before
    assert row(timed, new.completion_id).count() == 0
    gone = client.stream_text("Hello")
    gone.text()
    timed.clock.run_for(3500)
    expect(timed.get_by_role("button", name="2 new answers")).to_be_visible()
    assert client.call("DELETE", f"/history/{gone.completion_id}").status_code == 200
    timed.clock.run_for(3500)
    expect(button).to_have_text("1 new answer")
    button.click()
    assert row(timed, gone.completion_id).count() == 0
    expect(row(timed, new.completion_id).get_by_role("link")).to_be_focused()
    expect(row(timed, new.completion_id)).to_be_in_viewport()
    expect(button).to_have_count(0)


def test_where_more_came_than_a_page_holds_a_fresh_one_is_offered(timed: Any, service: Service, client: Client) -> None:
    client.stream_text("Hello").text()
    timed.goto(service.url + "/history?limit=1")
    for _ in range(2):
        client.stream_text("Hello").text()
    timed.clock.run_for(3500)
    timed.get_by_role("button", name="Many new answers: show the newest").click()
    expect(timed.locator(".row")).to_have_id(f"completion-{client.history(limit=1)['data'][0]['id']}")


def test_the_first_answer_of_all_comes_by_itself(timed: Any, service: Service, client: Client, database: Any) -> None:
    timed.goto(service.url + "/history?model=scripted-model&min_duration_ms=123456789")
    expect(timed.get_by_role("heading", name="No answer matches")).to_be_visible()
    stream = client.stream_text("Hello")
    stream.text()
    database.execute("UPDATE completions SET duration_ms = 123456789 WHERE id = :id", id=stream.completion_id)
    timed.clock.run_for(3500)
    expect(row(timed, stream.completion_id)).to_be_visible()


def test_keys_lead_from_row_to_row(page: Any, service: Service, client: Client) -> None:
    for _ in range(2):
        client.stream_text("Hello").text()
    page.goto(service.url + "/history")
    page.locator("html.js").wait_for()
    links = page.locator(".row-title a")
    for key, at in (("j", 0), ("j", 1), ("k", 0)):
        page.keyboard.press(key)
        expect(links.nth(at)).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("jk?")
    expect(page.get_by_role("searchbox")).to_have_value("jk?")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/history/*")


def test_the_keys_are_listed_and_can_be_switched_off(page: Any, service: Service, client: Client) -> None:
    client.stream_text("Hello").text()
    page.goto(service.url + "/history")
    page.locator("html.js").wait_for()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("Next answer")
    page.keyboard.press("j")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Single keys work").uncheck()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.reload()
    page.locator("html.js").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("?")
    assert page.locator(".row-title a:focus, dialog[open]").count() == 0
    page.get_by_role("button", name="Keys").click()
    dialog.get_by_label("Single keys work").check()
    dialog.get_by_role("button", name="Close").click()
    page.keyboard.press("?")
    expect(dialog).to_be_visible()


def test_a_panel_closes_as_a_menu_does(page: Any, service: Service, client: Client) -> None:
    client.stream_text("Hello").text()
    page.goto(service.url + "/history")
    page.locator("html.js").wait_for()
    status = page.get_by_label("Failed", exact=True)
    open_panel(page, "Status")
    open_panel(page, "Dates")
    expect(status).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("summary", has_text="Dates")).to_be_focused()
    expect(page.get_by_label("From", exact=True)).to_be_hidden()
    open_panel(page, "Status")
    page.get_by_role("heading", name="History").click()
    expect(status).to_be_hidden()
