"""A reviewer's morning, in one go: find, read, judge with the keyboard, correct, export, open the numbers."""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client, eventually
from tests.pages.chat import SQLITE, expect
from tests.service import Service
from tests.steps import answer
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
RIGHT, WRONG, CORRECT = "Wombats dig burrows.", "Wombats live in **Norway**.", "Wombats live in Australia."


@pytest.fixture
def asked(client: Client, upstream: Upstream, request: pytest.FixtureRequest) -> str:
    """Two answers, and the word that finds them: one is right, the newer one is wrong."""
    word = f"wombat{'script' if 'keyboard' in request.node.name else 'plain'}"
    for text in (RIGHT, WRONG):
        client.stream_text(f"{upstream.script(answer(text)).prompt} About the {word}, please.").text()
    eventually(lambda: len(client.history(q=word)["data"]) == 2, 10, "the search index")
    return word


def test_with_the_keyboard(page: Any, service: Service, asked: str) -> None:
    keyboard = page.keyboard
    page.goto(service.url + "/")
    page.get_by_role("link", name="History", exact=True).press("Enter")
    page.wait_for_url("**/history")
    ready(page)

    keyboard.press("/")  # find
    keyboard.type(f"{asked[:-1]}*")
    keyboard.press("Enter")
    expect(page.locator(".row")).to_have_count(2)
    expect(page.locator(".row mark").first).to_have_text(asked)
    ready(page)

    keyboard.press("j")  # read
    keyboard.press("Enter")
    expect(page.locator('[data-part="answer"] strong')).to_have_text("Norway")
    page.go_back()

    page.get_by_role("link", name="Review these").press("Enter")  # judge
    expect(page.locator('[data-part="left"]')).to_have_text("2 left")
    ready(page)
    keyboard.press("r")
    keyboard.type("wrong fact")
    keyboard.press("Enter")
    keyboard.press("c")
    expect(page.get_by_label("Corrected answer", exact=True)).to_have_value(WRONG)
    keyboard.press("ControlOrMeta+a")
    keyboard.type(CORRECT)
    keyboard.press("Escape")
    keyboard.press("b")
    expect(page.locator('[data-part="left"]')).to_have_text("1 left")
    expect(page.locator('[data-part="answer"]')).to_have_text(RIGHT)
    keyboard.press("g")
    expect(page.get_by_role("heading", name="Nothing is left to review")).to_be_visible()

    page.get_by_role("link", name="Show the history").press("Enter")  # export
    expect(page.locator(".row .verdict")).to_have_text(["Bad", "Good"])
    page.get_by_role("link", name="Export these").press("Enter")
    expect(page.locator("main")).to_contain_text("2 answers")
    with page.expect_download() as download:
        page.locator('[data-format="history.preferences.jsonl"]').press("Enter")
    assert wrong_and_right(download.value.path()) == (WRONG, CORRECT)

    page.goto(f"{service.url}/history?q={asked}")  # the numbers
    page.get_by_role("link", name="Numbers for these").press("Enter")
    expect(page.get_by_role("heading", name="Numbers", exact=True)).to_be_visible()
    expect(page.locator("tr", has_text="wrong fact").first).to_be_attached()


def test_without_a_script(new_page: Callable[..., Any], service: Service, asked: str) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(service.url + "/history")
    page.get_by_role("searchbox").fill(asked)
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".row")).to_have_count(2)
    page.locator(".row").first.get_by_role("link").click()
    expect(page.locator('[data-part="answer"]')).to_contain_text("Norway")
    page.go_back()

    page.get_by_role("link", name="Review these").click()
    page.get_by_label("Reason").fill("wrong fact")
    page.locator("summary", has_text="Corrected answer").click()
    page.get_by_label("Corrected answer", exact=True).fill(CORRECT)
    page.get_by_role("button", name="Bad").click()
    expect(page.locator('[data-part="left"]')).to_have_text("1 left")
    page.get_by_role("button", name="Good").click()
    expect(page.get_by_role("heading", name="Nothing is left to review")).to_be_visible()

    page.get_by_role("link", name="Show the history").click()
    expect(page.locator(".row .verdict")).to_have_text(["Bad", "Good"])
    page.get_by_role("link", name="Export these").click()
    with page.expect_download() as download:
        page.locator('[data-format="history.preferences.jsonl"]').click()
    assert wrong_and_right(download.value.path()) == (WRONG, CORRECT)

    page.goto(f"{service.url}/history?q={asked}")
    page.get_by_role("link", name="Numbers for these").click()
    expect(page.locator("tr", has_text="wrong fact").first).to_be_attached()


def ready(page: Any) -> None:
    """Keys do something from now on."""
    page.locator("html.js").wait_for()


def wrong_and_right(file: Path) -> tuple[str, str]:
    """The one pair in an export of preferences."""
    (line,) = file.read_text().splitlines()
    pair = json.loads(line)
    return text_of(pair["rejected"]), text_of(pair["chosen"])


def text_of(side: Any) -> str:
    return side if isinstance(side, str) else side[-1]["content"]
