"""Without JavaScript the same form is answered by a page that streams."""
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Client
from tests.exchange import Gate
from tests.pages.chat import SQLITE, expect
from tests.service import Service
from tests.steps import answer, close, delta, done, finish, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


@pytest.fixture
def plain(new_page: Callable[..., Any], service: Service) -> Any:
    page = new_page(java_script_enabled=False)
    page.goto(service.url)
    return page


def send(page: Any, prompt: str) -> None:
    page.get_by_label("Your prompt").fill(prompt)
    page.get_by_role("button", name="Send").click(no_wait_after=True)


def last_answer(page: Any) -> Any:
    return page.locator('[data-part="answer"]').last


def test_the_page_streams_the_answer_and_then_offers_the_form_again(plain: Any, upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(delta("<i>One</i>\n"), wait_for(gate), delta("two"), finish(), done())
    send(plain, "A first line\n" + script.prompt)
    expect(last_answer(plain)).to_have_text("<i>One</i>", use_inner_text=True)
    expect(plain.get_by_role("button", name="Stop")).to_be_visible()
    assert plain.get_by_label("Your prompt").count() == 0, "the page has not ended yet"
    gate.open()
    expect(last_answer(plain)).to_have_text("<i>One</i>\ntwo", use_inner_text=True)
    expect(plain.get_by_role("button", name="Stop")).to_be_hidden()
    assert script.call().messages[-1]["content"] == f"A first line\n{script.prompt}"
    again = upstream.script(answer("More."))
    send(plain, again.prompt)
    expect(last_answer(plain)).to_have_text("More.")
    assert len(again.call().messages) == 3, "it is the same conversation"
    expect(plain.locator(".needs-js:visible")).to_have_count(0)


def test_an_answer_that_fails_midway_says_so_and_can_be_tried_again(plain: Any, upstream: Upstream) -> None:
    send(plain, upstream.script(delta("half"), close()).then(*answer("whole")).prompt)
    expect(plain.locator(".note")).to_contain_text("The model could not finish this answer.")
    expect(plain.locator(".note")).to_contain_text("What came so far is kept.")
    expect(last_answer(plain)).to_have_text("half")
    plain.get_by_role("button", name="Try again").click()
    expect(last_answer(plain)).to_have_text("whole")
    expect(plain.locator(".versions").last).to_contain_text("Version 2 of 2")


def test_a_live_answer_shows_what_there_is_and_can_be_stopped(
        plain: Any, upstream: Upstream, client: Client, service: Service) -> None:
    script = upstream.script(delta("so far"), wait_for(Gate()))
    stream = client.stream_text(script.prompt)
    stream.read_until("so far")
    address = f"{service.url}/?conversation={stream.conversation_id}"
    plain.goto(address)
    expect(plain.get_by_role("link", name="Reload to see more")).to_be_visible()
    plain.get_by_role("button", name="Stop").click()
    expect(plain).to_have_url(address)
    expect(plain.locator(".note")).to_contain_text("Stopped.")
    expect(last_answer(plain)).to_have_text("so far")
    script.call().wait_closed(2)


def test_a_refused_prompt_stays_in_its_box(plain: Any) -> None:
    send(plain, "   ")
    expect(plain.get_by_role("alert")).to_contain_text("prompt: Must not be blank.")
    expect(plain.get_by_label("Your prompt")).to_have_value("   ")


def test_sending_the_page_again_makes_no_second_answer(client: Client, upstream: Upstream) -> None:
    script = upstream.script(answer("Once."))
    form = {"prompt": script.prompt, "conversation_id": "", "idempotency_key": f"key-of-{script.name}"}
    pages = [client.call("POST", "/", data=form) for _ in range(2)]
    assert all(page.status_code == 200 and "Once." in page.text for page in pages)
    assert len(script.calls) == 1


def test_past_conversations_open_without_a_script_on_a_phone(
        new_page: Callable[..., Any], service: Service, upstream: Upstream) -> None:
    page = new_page(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page.goto(service.url)
    script = upstream.script(answer("Kept."))
    send(page, script.prompt)
    expect(last_answer(page)).to_have_text("Kept.")
    page.goto(service.url)
    page.get_by_role("button", name="Conversations").click()
    page.get_by_role("link", name=script.prompt).click()
    expect(last_answer(page)).to_have_text("Kept.")
