"""What a reload or a broken connection costs: nothing."""
from collections.abc import Callable
from typing import Any

import pytest

from tests.exchange import Gate
from tests.pages.chat import SQLITE, Chat, Wire, expect
from tests.service import Service
from tests.steps import delta, done, finish, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
WORDS = [f"wörd{i} " for i in range(30)]


def test_a_reload_in_mid_answer_comes_back_to_it(chat: Chat, upstream: Upstream) -> None:
    gate, second = Gate(), Gate()
    chat.send(upstream.script(*map(delta, WORDS[:10]), wait_for(gate), *map(delta, WORDS[10:20]), wait_for(second),
                              *map(delta, WORDS[20:]), finish(), done()).prompt)
    expect(chat.answer).to_have_text("".join(WORDS[:10]))
    chat.page.reload()
    expect(chat.answer).to_have_text("".join(WORDS[:10]))
    expect(chat.turn()).to_have_attribute("aria-busy", "true")
    gate.open()
    expect(chat.answer).to_have_text("".join(WORDS[:20]))
    chat.page.reload()
    second.open()
    expect(chat.answer).to_have_text("".join(WORDS))
    chat.ended()
    expect(chat.turns).to_have_count(1)


def test_a_connection_cut_midway_is_taken_up_again(page: Any, wire: Wire, upstream: Upstream, service: Service) -> None:
    gate = Gate()
    chat = Chat(page, wire.url).open()
    script = upstream.script(*map(delta, WORDS[:10]), wait_for(gate), *map(delta, WORDS[10:]), finish(), done())
    chat.send(script.prompt)
    expect(chat.answer).to_have_text("".join(WORDS[:10]))
    wire.snap()
    gate.open()
    expect(chat.answer).to_have_text("".join(WORDS))
    chat.ended()
    expect(chat.note).to_have_count(0)
    assert len(script.calls) == 1


def test_a_service_that_stays_away_is_said_in_words_and_can_be_tried_again(
        new_page: Callable[..., Any], wire: Wire, upstream: Upstream) -> None:
    page = new_page()
    page.clock.install()
    gate = Gate()
    chat = Chat(page, wire.url).open()
    script = upstream.script(*map(delta, WORDS[:10]), wait_for(gate), *map(delta, WORDS[10:]), finish(), done())
    chat.send(script.prompt)
    page.clock.run_for(200)
    expect(chat.answer).to_have_text("".join(WORDS[:10]))
    wire.cut()
    waited = chat.turn().locator('[data-part="progress"]')
    expect(waited).to_contain_text("The connection was lost")
    for _ in range(40):
        page.clock.run_for(1000)
        if chat.note.count():
            break
    expect(chat.note).to_contain_text("The service cannot be reached.")
    expect(chat.note).to_have_attribute("role", "alert")
    expect(chat.answer).to_have_text("".join(WORDS[:10]))
    wire.mend()
    gate.open()
    chat.click("Try again")
    expect(chat.turn().locator('[data-part="actions"]')).to_be_visible()
    expect(chat.answer).to_have_text("".join(WORDS))
    assert len(script.calls) == 1


def test_a_prompt_that_did_not_get_through_is_sent_once(page: Any, wire: Wire, upstream: Upstream) -> None:
    """The request reached the service but its answer never came back: the retry carries the same key."""
    chat = Chat(page, wire.url).open()
    script = upstream.script(*map(delta, WORDS), finish(), done())
    wire.loses_answers = True
    chat.send(script.prompt)
    script.call()
    wire.cut()  # not only snapped: on a connection used before, Chromium itself would repeat the request
    expect(chat.turn().locator('[data-part="progress"]')).to_contain_text("The connection was lost")
    wire.loses_answers = False
    wire.mend()
    expect(chat.answer).to_have_text("".join(WORDS))
    chat.ended()
    assert len(script.calls) == 1
