"""The numbers in the browser: pictures that lead to rows, and tables that need no script."""
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Launch
from tests.pages.chat import SQLITE, expect
from tests.service import Database, Service
from tests.test_demo import flask_command

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


@pytest.fixture(scope="module")
def numbers(new_database: Callable[[], Database], launch: Launch) -> Iterator[Service]:
    database = new_database()
    assert flask_command(database, "demo", "--count", "150", "--days", "10").exit_code == 0
    database.execute("UPDATE completions SET status = 'cancelled' WHERE status = 'in_progress'")
    service = launch(database, WEB_CONCURRENCY=1)
    yield service
    service.stop()


def drawn(page: Any) -> Any:
    page.locator("html[data-drawn]").wait_for(state="attached")
    return page


def pixels(page: Any, picture: str) -> list[str]:
    """The colours of a picture, most frequent first."""
    return page.locator(f"#{picture} canvas").evaluate("""canvas => {
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, seen = {};
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) {
            const c = data.slice(i, i + 3).join();
            seen[c] = (seen[c] || 0) + 1;
        }
        return Object.keys(seen).sort((a, b) => seen[b] - seen[a]);
    }""")


def test_a_click_on_a_bar_opens_exactly_those_rows(page: Any, numbers: Service) -> None:
    page.goto(numbers.url + "/stats?days=7")
    drawn(page)
    page.locator("#models summary").click()
    cell = page.locator("#models tbody tr").first.locator("td").first
    count, address = int(cell.inner_text()), cell.locator("a").get_attribute("href")
    assert count == numbers.database.value(
        "SELECT count(*) FROM completions WHERE status = 'completed' AND request_model = :m AND created_at >= :d",
        m=page.locator("#models tbody th").first.inner_text(), d=re.search(r"from=([\d-]+)", address)[1])
    page.locator("#models canvas").scroll_into_view_if_needed()
    spot = page.evaluate("""() => {
        const { x, y } = globalThis.Chart.getChart(document.querySelector("#models canvas")).getDatasetMeta(0).data[0];
        return { x: x - 5, y };
    }""")
    page.locator("#models canvas").click(position=spot)
    page.wait_for_url("**/history?*")
    assert page.url.endswith(address)
    expect(page.locator(".row")).to_have_count(min(count, 20))


def test_what_takes_longer_is_counted_while_the_first_figures_are_looked_at(
        page: Any, new_page: Callable[..., Any], numbers: Service) -> None:
    """Answers are counted from the newest id down, so one of a far higher id keeps the others waiting."""
    database = numbers.database
    counted = "SELECT count(*) FROM completions WHERE status <> 'in_progress'"
    newest = database.value("SELECT max(id) FROM completions WHERE id NOT IN (SELECT completion_id FROM reviews "
                            "UNION SELECT completion_id FROM tags)")
    database.execute("UPDATE completions SET id = 8000000 WHERE id = :newest", newest=newest)
    plain = new_page(java_script_enabled=False)
    for one in (plain, page):
        one.goto(numbers.url + "/stats?days=all")
        expect(one.get_by_role("status").filter(has_text="Counted so far")).to_be_visible()
    first = page.locator(".key-figures strong").first
    expect(first).to_have_text(str(database.value(counted)), timeout=30_000)
    assert page.get_by_text("Counted so far").count() == 0 and page.locator("canvas").count() > 3
    plain.get_by_role("link", name="Count the rest").click(timeout=30_000)
    expect(plain.locator(".key-figures strong").first).to_have_text(str(database.value(counted)))
    assert plain.get_by_text("Counted so far").count() == 0
    database.execute("UPDATE completions SET id = :newest WHERE id = 8000000", newest=newest)


def test_the_pictures_follow_the_colours_of_the_page(page: Any, numbers: Service) -> None:
    page.goto(numbers.url + "/stats")
    light = pixels(drawn(page), "answers")
    assert light, "something is drawn"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("old => getComputedStyle(document.body).backgroundColor !== old", arg="rgb(255, 255, 255)")
    dark = pixels(page, "answers")
    assert dark and dark[0] != light[0]


def test_the_keyboard_reaches_the_rows_too(page: Any, numbers: Service) -> None:
    page.goto(numbers.url + "/stats?days=7")
    drawn(page).locator("#answers summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#answers table")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Answers: the figures")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/history?from=*")


def test_without_a_script_the_tables_are_there(new_page: Callable[..., Any], numbers: Service) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(numbers.url + "/stats?days=7&model=mistral-small")
    expect(page.locator("#answers tbody tr")).to_have_count(7)
    expect(page.locator("canvas").first).to_be_hidden()
    page.get_by_role("link", name="Remove: Model mistral-small").click()
    expect(page.locator("#answers tbody tr")).to_have_count(7)
    page.get_by_role("link", name="90 days").click()
    expect(page.locator("#first tbody tr")).to_have_count(90)
    expect(page.locator("#first tbody tr").first).to_contain_text("no answers")


def test_figures_that_list_nothing_are_no_links(page: Any, numbers: Service) -> None:
    page.goto(numbers.url + "/stats?status=in_progress&days=7&by=week")
    answers = page.get_by_role("list", name="At a glance").get_by_role("listitem").first
    expect(answers).to_have_text("0answers in 7 days")
    expect(answers.get_by_role("link")).to_have_count(0)
    expect(page.locator('[href*="None"]')).to_have_count(0)
    expect(page.get_by_role("link", name="Remove: Status")).to_have_attribute("href", "/stats?days=7&by=week")
    expect(page.get_by_role("link", name="90 days")).to_have_attribute("href", "/stats?status=in_progress&by=week&days=90")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(new_page: Callable[..., Any], numbers: Service) -> None:
    page = new_page(viewport={"width": 360, "height": 740})
    page.goto(numbers.url + "/stats")
    drawn(page)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
