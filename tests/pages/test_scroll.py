"""Scrolling follows what is written, and lets go when the reader scrolls up."""
import pytest

from tests.client import eventually
from tests.exchange import Gate
from tests.pages.chat import SQLITE, Chat, expect
from tests.steps import delta, done, finish, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
SCREENFUL = "A line of the answer.\n\n" * 40


def test_it_follows_lets_go_and_takes_up_again(chat: Chat, upstream: Upstream) -> None:
    gates = [Gate(), Gate(), Gate()]
    steps = [step for gate in gates for step in (delta(SCREENFUL), wait_for(gate))]
    chat.send(upstream.script(*steps, delta("The end."), finish(), done()).prompt)
    lines = chat.answer.locator("p")
    expect(lines).to_have_count(40)
    chat.scrolled_to_end()
    expect(chat.jump).to_be_hidden()

    chat.page.mouse.move(600, 300)
    chat.page.mouse.wheel(0, -60)
    expect(chat.jump).to_be_visible()
    eventually(lambda: not chat.is_at_end)
    before = chat.page.evaluate("scrollY")
    gates[0].open()
    expect(lines).to_have_count(80)
    assert chat.page.evaluate("scrollY") == before, "the reader is left where they are"

    chat.jump.click()
    chat.scrolled_to_end()
    expect(chat.jump).to_be_hidden()
    gates[1].open()
    expect(lines).to_have_count(120)
    chat.scrolled_to_end()

    chat.page.mouse.wheel(0, -400)
    expect(chat.jump).to_be_visible()
    chat.page.mouse.wheel(0, 3000)
    expect(chat.jump).to_be_hidden()
    gates[2].open()
    chat.ended()
    chat.scrolled_to_end()


def test_a_long_conversation_opens_at_its_end(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(delta(SCREENFUL), finish(), done()).prompt).ended()
    chat.page.reload()
    chat.scrolled_to_end()
