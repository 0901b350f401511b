"""An answer can be stopped, and asked for once more."""
import pytest

from tests.client import Client
from tests.exchange import Gate
from tests.pages.chat import SQLITE, Chat, expect
from tests.steps import answer, delta, role, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


def test_stop_ends_it_and_keeps_the_text(chat: Chat, upstream: Upstream, client: Client) -> None:
    script = upstream.script(delta("as far as this"), wait_for(Gate())).then(*answer("whole"))
    chat.send(script.prompt)
    expect(chat.answer).to_have_text("as far as this")
    chat.stop_button.click()
    expect(chat.note).to_contain_text("Stopped. What came so far is kept.")
    expect(chat.answer).to_have_text("as far as this")
    script.call().wait_closed(2)
    assert client.history(chat.completion_id)["status"] == "cancelled"
    chat.ended().click("Try again")
    expect(chat.answer).to_have_text("whole")
    expect(chat.note).to_have_count(0)


def test_stop_works_with_the_keyboard_and_leaves_the_focus_where_one_goes_on(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(delta("so far"), wait_for(Gate())).prompt)
    expect(chat.answer).to_have_text("so far")
    chat.send("Another one")
    expect(chat.page.locator("#hint")).to_contain_text("Not sent")
    chat.box.press("Escape")
    expect(chat.note).to_contain_text("Stopped.")
    expect(chat.box).to_have_value("Another one")
    expect(chat.box).to_be_focused()
    chat.send(upstream.script(delta("so far"), wait_for(Gate())).prompt)
    expect(chat.answer).to_have_text("so far")
    chat.stop_button.press("Enter")
    chat.ended()
    expect(chat.page.get_by_role("button", name="Send")).to_be_focused()
    expect(chat.page.locator("#hint")).to_contain_text("Enter sends")


def test_stop_works_before_the_first_word(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(role(), wait_for(Gate())).prompt)
    chat.stop_button.click()
    expect(chat.note).to_contain_text("Stopped.")
    expect(chat.note).not_to_contain_text("What came so far")
    chat.ended()


def test_regenerate_replaces_the_answer_and_leads_to_the_earlier_one(chat: Chat, upstream: Upstream, client: Client) -> None:
    gate = Gate()
    script = upstream.script(answer("first")).then(wait_for(gate), *answer("second"))
    chat.send(script.prompt).ended()
    earlier = chat.completion_id
    chat.click("Regenerate")
    expect(chat.answer).to_have_text("")
    gate.open()
    expect(chat.answer).to_have_text("second")
    chat.ended()
    expect(chat.turns).to_have_count(1)
    expect(chat.turn().locator(".versions")).to_have_text("Version 2 of 2; earlier: 1")
    assert client.history(chat.completion_id)["regenerated_from"] == earlier
    chat.page.reload()
    expect(chat.answer).to_have_text("second")
    expect(chat.turn().locator(".versions")).to_contain_text("Version 2 of 2; earlier:")
    chat.turn().locator(".versions").get_by_role("link", name="1").click()
    expect(chat.page).to_have_url(f"{chat.url}/history/{earlier}")
    expect(chat.page.locator('[data-part="answer"]')).to_have_text("first")
