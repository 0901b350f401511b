"""A prompt is sent and its answer appears as it is written."""
from typing import Any

import pytest

from tests.client import eventually
from tests.exchange import Gate
from tests.pages.chat import SQLITE, Chat, expect
from tests.service import Service
from tests.steps import answer, delta, done, finish, role, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


def test_the_answer_appears_piece_by_piece(chat: Chat, upstream: Upstream) -> None:
    first, second = Gate(), Gate()
    script = upstream.script(role(), wait_for(first), delta("One"), wait_for(second), delta(" two"), finish(), done())
    chat.send(script.prompt)
    expect(chat.turn().locator('[data-part="prompt"]')).to_have_text(script.prompt)
    expect(chat.turn()).to_have_attribute("aria-busy", "true")
    expect(chat.turn().locator('[data-part="progress"]')).to_contain_text("Waiting for the first word")
    first.open()
    expect(chat.answer).to_have_text("One")
    expect(chat.stop_button).to_be_visible()
    second.open()
    expect(chat.answer).to_have_text("One two")
    chat.ended()
    expect(chat.turn().locator('[data-part="progress"]')).to_be_hidden()
    expect(chat.note).to_have_count(0)


def test_the_conversation_goes_on_and_stands_at_the_side(chat: Chat, upstream: Upstream) -> None:
    first, second = upstream.script(answer("Paris.")), upstream.script(answer("About two million."))
    chat.send(first.prompt).ended()
    assert "conversation=" in chat.page.url
    expect(chat.page.locator(".side [aria-current=page]")).to_have_text(first.prompt)
    chat.send(second.prompt).ended()
    expect(chat.turns).to_have_count(2)
    assert [message["content"] for message in second.call().messages] == [first.prompt, "Paris.", second.prompt]
    chat.page.reload()
    expect(chat.page.locator('[data-part="answer"]')).to_have_text(["Paris.", "About two million."])
    chat.page.get_by_role("link", name="New conversation").click()
    expect(chat.turns).to_have_count(0)
    chat.page.locator(".side").get_by_role("link", name=first.prompt).click()
    expect(chat.turns).to_have_count(2)


def test_shift_enter_breaks_the_line_and_enter_sends(chat: Chat, upstream: Upstream) -> None:
    script = upstream.script(answer("Yes."))
    chat.box.press_sequentially("Two lines")
    chat.box.press("Shift+Enter")
    chat.box.press_sequentially(script.prompt)
    expect(chat.turns).to_have_count(0)
    chat.box.press("Enter")
    chat.ended()
    expect(chat.box).to_have_value("")
    assert script.call().messages[-1]["content"] == f"Two lines\n{script.prompt}"


def test_the_enter_of_an_input_method_does_not_send(chat: Chat) -> None:
    devtools = chat.page.context.new_cdp_session(chat.page)
    chat.box.focus()
    devtools.send("Input.imeSetComposition", {"text": "にほん", "selectionStart": 3, "selectionEnd": 3})
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 229, "nativeVirtualKeyCode": 229}
    devtools.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    devtools.send("Input.insertText", {"text": "日本"})
    devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    expect(chat.box).to_have_value("日本")
    expect(chat.turns).to_have_count(0)


def test_a_blank_prompt_is_not_sent(chat: Chat) -> None:
    chat.send("  \n ")
    expect(chat.turns).to_have_count(0)


def test_an_answer_and_its_code_can_be_copied(new_page: Any, service: Service, upstream: Upstream) -> None:
    chat = Chat(new_page(permissions=["clipboard-read", "clipboard-write"]), service.url).open()
    text = "Like **this**:\n\n```python\nprint(1 < 2)\n```\n"
    chat.send(upstream.script(answer(text)).prompt).ended()
    read = "navigator.clipboard.readText()"
    chat.click("Copy the python code")
    expect(chat.turn().locator(".code-head button")).to_have_text("Copied")
    assert chat.page.evaluate(read) == "print(1 < 2)"
    chat.turn().locator(".actions").get_by_role("button", name="Copy").click()
    expect(chat.announcer).to_have_text("Copied")
    eventually(lambda: chat.page.evaluate(read) == text, what="the copied answer")


def test_a_screen_reader_hears_of_the_start_and_the_end_only(chat: Chat, upstream: Upstream) -> None:
    chat.page.evaluate("""() => {
        window.heard = [];
        const announcer = document.getElementById("announcer");
        new MutationObserver(() => heard.push(announcer.textContent)).observe(announcer, {childList: true, characterData: true});
    }""")
    chat.send(upstream.script(answer(*(f"word {i} " for i in range(40)))).prompt).ended()
    assert chat.page.evaluate("heard") == ["The answer is being written.", "The answer is complete."]
    assert chat.turn().locator("[aria-live]").count() == 0


def test_another_model_can_be_chosen(chat: Chat, upstream: Upstream) -> None:
    script = upstream.script(answer("Other."))
    chat.page.get_by_label("Model").select_option("other-model")
    chat.send(script.prompt).ended()
    assert script.call().body["model"] == "other-model"
    chat.page.reload()
    expect(chat.page.get_by_label("Model")).to_have_value("other-model")
