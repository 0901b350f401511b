"""The pages for exports and deletions: with a script, after a broken connection, by keyboard, and without a script."""
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.pages.chat import SQLITE, expect
from tests.pages.test_access import look_at
from tests.service import Service

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


@pytest.fixture(scope="module")
def talk(client: Client) -> int:
    """A conversation of five answers."""
    first = client.stream_text("One of five")
    first.text()
    for _ in range(4):
        client.stream_text("One of five", conversation_id=first.conversation_id).text()
    return first.conversation_id


def ids(path: Path) -> list[int]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def kept(client: Client, talk: int) -> list[int]:
    return [item["id"] for item in client.history(conversation_id=talk, limit=100)["data"]][::-1]


def test_an_export_says_how_many_and_how_far(page: Any, service: Service, client: Client, talk: int) -> None:
    page.goto(f"{service.url}/export?conversation_id={talk}")
    expect(page.locator(".sum")).to_have_text("5 answers")
    with page.expect_download() as download:
        page.locator('[data-format="history.jsonl"]').press("Enter")
    assert ids(download.value.path()) == kept(client, talk)
    expect(page.get_by_text(re.compile(r"^5 of 5 rows are in llmstream-\d{4}-\d\d-\d\d\.jsonl\.$")).first).to_be_visible()
    expect(page.locator("#announcer")).to_contain_text("5 of 5 rows")


def test_an_export_goes_on_after_a_broken_connection(page: Any, service: Service, client: Client, talk: int) -> None:
    calls: list[str] = []

    def answer(route: Any) -> None:
        calls.append(route.request.url)
        route.abort() if len(calls) == 1 else route.continue_()
    page.route("**/history.csv?**", answer)
    page.goto(f"{service.url}/export?conversation_id={talk}")
    with page.expect_download() as download:
        page.locator('[data-format="history.csv"]').click()
    assert len(calls) > 1 and download.value.path().read_bytes() == client.get(f"/history.csv?conversation_id={talk}").content


def test_an_export_that_was_stopped_goes_on_where_it_was(page: Any, service: Service, client: Client, talk: int) -> None:
    held: list[Any] = []
    page.route("**/history.jsonl?**", lambda route: route.continue_() if held else held.append(route))
    page.goto(f"{service.url}/export?conversation_id={talk}")
    page.locator('[data-format="history.jsonl"]').click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Stopped at 0 of 5 rows; nothing was saved.").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Continue").click()
    assert ids(download.value.path()) == kept(client, talk)


def test_an_export_needs_no_script(new_page: Any, service: Service, client: Client, talk: int) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(f"{service.url}/history?conversation_id={talk}")
    page.goto(service.url + page.locator('a[href^="/export"]').first.get_attribute("href"))
    with page.expect_download() as download:
        page.locator('[data-format="history.jsonl"]').click()
    assert ids(download.value.path()) == kept(client, talk)


@pytest.mark.parametrize("script", [True, False])
def test_a_deletion_asks_first_and_says_when_it_is_done(new_page: Any, service: Service, client: Client, script: bool) -> None:
    first = client.stream_text("To be deleted")
    first.text()
    second = client.stream_text("To be deleted", conversation_id=first.conversation_id)
    second.text()
    page = new_page(java_script_enabled=script)
    page.goto(f"{service.url}/delete?conversation_id={first.conversation_id}")
    page.get_by_label("To confirm").fill("3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Nothing was deleted: to confirm, type the number 2.")
    faults = look_at(page) if script else []
    page.get_by_label("To confirm").fill("2")
    page.keyboard.press("Enter")
    expect(page.locator(".sum")).to_have_text("Done: 2 answers are deleted, with everything that belonged to them.")
    assert faults + (look_at(page) if script else []) == [], "the answers to forms are pages, too"
    assert kept(client, first.conversation_id) == []
    page.goto(f"{service.url}/delete?conversation_id={first.conversation_id}")
    expect(page.get_by_role("heading", name="Nothing to delete")).to_be_visible()
