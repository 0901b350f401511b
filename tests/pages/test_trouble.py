"""What goes wrong stands in the turn, in words, with the text so far and a way on."""
import pytest

from tests.client import Client
from tests.exchange import Gate
from tests.pages.chat import SQLITE, Chat, expect
from tests.steps import answer, close, delta, done, finish, role, status, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


def test_an_answer_that_fails_midway_keeps_its_text_and_can_be_tried_again(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(delta("half of"), close()).then(*answer("the whole")).prompt)
    expect(chat.note).to_contain_text("The model could not finish this answer.")
    expect(chat.note).to_contain_text("broke off before the end")
    expect(chat.note).to_contain_text("What came so far is kept.")
    expect(chat.note).to_have_attribute("role", "alert")
    expect(chat.answer).to_have_text("half of")
    chat.page.reload()
    expect(chat.note).to_contain_text("The model could not finish this answer.")
    expect(chat.answer).to_have_text("half of")
    chat.click("Try again")
    expect(chat.answer).to_have_text("the whole")
    expect(chat.note).to_have_count(0)


def test_an_answer_that_fails_before_its_first_word_says_why(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(status(429)).prompt)
    expect(chat.note).to_contain_text("limiting how much we may ask")
    expect(chat.note).not_to_contain_text("What came so far")
    expect(chat.turn().get_by_role("button", name="Try again")).to_be_visible()
    chat.ended()


def test_a_conversation_that_is_busy_elsewhere_says_so(chat: Chat, upstream: Upstream, client: Client) -> None:
    gate = Gate()
    chat.send(upstream.script(answer("Hello.")).prompt).ended()
    conversation_id = client.history(chat.completion_id)["conversation_id"]
    slow = upstream.script(delta("x"), wait_for(gate), finish(), done())
    other = client.stream_text(slow.prompt, conversation_id=conversation_id)
    script = upstream.script(answer("Now."))
    chat.send(script.prompt)
    note = chat.page.get_by_role("alert")
    expect(note).to_contain_text("Another answer is being written in this conversation.")
    expect(chat.turns).to_have_count(1)
    expect(chat.box).to_have_value(script.prompt)
    note.get_by_role("button", name="Show that answer").click()
    expect(chat.turns).to_have_count(2)
    expect(chat.stop_button).to_be_visible()
    expect(chat.box).to_have_value(script.prompt)
    gate.open()
    other.text()
    chat.ended()
    chat.box.press("Enter")
    expect(chat.answer).to_have_text("Now.")


def test_a_prompt_that_is_refused_can_be_edited(chat: Chat) -> None:
    chat.send("x" * 300_000)
    expect(chat.note).to_have_attribute("role", "alert")
    assert chat.turn().get_by_role("button", name="Try again").count() == 0
    chat.click("Edit the prompt")
    expect(chat.turns).to_have_count(0)
    expect(chat.box).to_have_value("x" * 300_000)
    expect(chat.box).to_be_focused()


def test_a_refused_field_is_named(chat: Chat) -> None:
    chat.send("no \0 please")
    expect(chat.note.get_by_role("listitem")).to_have_text("prompt: Must not contain the character NUL.")


def test_the_longest_length_is_said(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(role(), delta("so much"), finish("length"), done()).prompt).ended()
    expect(chat.note).to_have_text("The answer reached its longest allowed length.")


def test_an_unknown_conversation_is_a_page_that_leads_on(chat: Chat) -> None:
    chat.page.goto(chat.url + "/?conversation=999999")
    expect(chat.page.get_by_role("heading", name="Not here")).to_be_visible()
    chat.page.get_by_role("link", name="Go to the chat").click()
    expect(chat.box).to_be_visible()
