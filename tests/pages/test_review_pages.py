"""Judging in the browser: the queue with keys alone, by forms without JavaScript, and the thumbs of the chat."""
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Client, eventually
from tests.pages.chat import SQLITE, Chat, Wire, expect
from tests.service import Database, Service
from tests.steps import answer
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
_tags = itertools.count(1)


class Queue:
    """Three answers that wait under a tag, newest first, and a browser that looks at them."""

    def __init__(self, service: Service, upstream: Upstream, *more: str) -> None:
        self.tag = f"morning-{next(_tags)}"
        self.url, self.client = service.url, service.client
        self.ids: list[int] = []
        for number in (3, 2, 1):
            stream = self.client.stream_text(upstream.script(answer(f"**Answer** {number}", *more)).prompt)
            stream.text()
            self.ids.insert(0, stream.completion_id)
            self.client.call("PUT", f"/history/{stream.completion_id}/tags/{self.tag}")

    def open(self, page: Any, query: str = "", url: str = "") -> Any:
        page.goto(f"{url or self.url}/review?tag={self.tag}{query}")
        return page

    def judgements(self, index: int) -> list[dict[str, Any]]:
        return self.client.get(f"/history/{self.ids[index]}/reviews").json()["data"]


@pytest.fixture
def queue(service: Service, upstream: Upstream) -> Queue:
    return Queue(service, upstream)


def shows(page: Any, completion_id: int) -> None:
    expect(page.locator('[data-part="shown"]')).to_have_text(f"Number {completion_id}")


def test_a_reviewer_needs_no_mouse(page: Any, queue: Queue) -> None:
    queue.open(page)
    first, second, third = queue.ids
    shows(page, first)
    expect(page.locator('[data-part="answer"] strong')).to_have_text("Answer")
    page.evaluate("window.isTheSamePage = true")
    page.keyboard.press("r")
    page.keyboard.type("wrong fact")
    page.keyboard.press("Enter")
    page.keyboard.press("n")
    page.keyboard.type("good or bad: b and g are letters here")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.get_by_label("Corrected answer", exact=True)).to_have_value("**Answer** 1")
    page.keyboard.press("Control+End")
    page.keyboard.type(", corrected")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    shows(page, second)
    expect(page.locator('[data-part="shown"]')).to_be_focused()
    expect(page.locator("#announcer")).to_have_text(f"Judged bad. Next: number {second}, 2 left.")
    expect(page.locator('[data-part="left"]')).to_have_text("2 left")
    (said,) = queue.judgements(0)
    assert (said["rating"], said["reason"], said["note"], said["correction"]) == (
        "bad", "wrong fact", "good or bad: b and g are letters here", "**Answer** 1, corrected")
    page.keyboard.press("j")
    shows(page, third)
    page.keyboard.press("k")
    shows(page, second)
    page.go_back()
    shows(page, third)
    page.go_forward()
    shows(page, second)
    page.keyboard.press("t")
    page.keyboard.type("to discuss")
    page.keyboard.press("Enter")
    expect(page.locator(".tag-chip").filter(has_text="to discuss")).to_be_visible()
    expect(page.get_by_label("A tag to add")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    shows(page, third)
    page.keyboard.press("u")
    shows(page, second)
    expect(page.locator('[data-part="said"]')).to_contain_text("Good by local")
    page.keyboard.press("b")
    shows(page, third)
    page.keyboard.press("g")
    expect(page.get_by_role("heading", name="Nothing is left to review")).to_be_visible()
    assert [review["rating"] for review in queue.judgements(1)] == ["bad", "good"], "nothing was overwritten"
    assert page.evaluate("window.isTheSamePage"), "no reload"
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Judge the last one again")
    page.keyboard.press("Space")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_what_was_judged_can_be_come_back_to_at_once_and_later(page: Any, queue: Queue) -> None:
    queue.open(page)
    first, second, third = queue.ids
    page.keyboard.press("g")
    shows(page, second)
    page.keyboard.press("k")
    shows(page, first)
    page.keyboard.press("b")
    shows(page, second)
    page.keyboard.press("j")
    shows(page, third)
    expect(page.locator("#announcer")).to_have_text(f"Number {third}, 2 left.")
    page.keyboard.press("k")
    shows(page, second)
    page.keyboard.press("u")
    shows(page, first)
    assert [review["rating"] for review in queue.judgements(0)] == ["bad", "good"]


def test_earlier_turns_are_shown_as_markdown_too(page: Any, service: Service, upstream: Upstream) -> None:
    first = service.client.stream_text(upstream.script(answer("**Earlier** answer")).prompt)
    first.text()
    later = service.client.stream_text("And now?", conversation_id=first.conversation_id)
    later.text()
    page.goto(f"{service.url}/review?conversation_id={first.conversation_id}")
    page.get_by_text("Earlier in this conversation").click()
    expect(page.locator(".earlier strong")).to_have_text("Earlier")
    page.goto(f"{service.url}/history/{later.completion_id}")
    page.get_by_role("heading", name="The whole conversation").scroll_into_view_if_needed()
    expect(page.locator(".talk strong")).to_have_text("Earlier")


def test_what_was_typed_is_not_lost_by_skipping_nor_by_a_lost_connection(page: Any, queue: Queue, wire: Wire) -> None:
    queue.open(page, url=wire.url)
    page.keyboard.press("n")
    page.keyboard.type("half a thought")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    shows(page, queue.ids[1])
    page.keyboard.press("k")
    shows(page, queue.ids[0])
    expect(page.get_by_label("Note", exact=True)).to_have_value("half a thought")
    wire.cut()
    page.keyboard.press("g")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(page.get_by_label("Note", exact=True)).to_have_value("half a thought")
    assert queue.judgements(0) == []
    wire.mend()
    page.keyboard.press("g")
    shows(page, queue.ids[1])
    assert [review["note"] for review in queue.judgements(0)] == ["half a thought"]


def test_what_was_typed_is_not_lost_by_the_browsers_own_way_back(page: Any, queue: Queue) -> None:
    queue.open(page)
    page.keyboard.press("j")
    shows(page, queue.ids[1])
    note = page.get_by_label("Note", exact=True)
    page.keyboard.press("n")
    page.keyboard.type("half a thought")
    page.go_back()
    shows(page, queue.ids[0])
    page.go_forward()
    shows(page, queue.ids[1])
    expect(note).to_have_value("half a thought")
    note.fill("")
    page.go_back()
    shows(page, queue.ids[0])
    page.go_forward()
    shows(page, queue.ids[1])
    expect(note).to_have_value("")
    expect(note).to_be_hidden()


def test_a_tag_that_was_typed_is_added_with_the_judgement(page: Any, queue: Queue) -> None:
    queue.open(page)
    page.keyboard.press("t")
    page.keyboard.type("tone")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    shows(page, queue.ids[1])
    assert [review["rating"] for review in queue.judgements(0)] == ["good"]
    assert queue.client.get(f"/history/{queue.ids[0]}/tags").json()["data"] == [queue.tag, "tone"]


def test_back_is_not_ignored_while_the_next_answer_is_on_its_way(page: Any, queue: Queue) -> None:
    queue.open(page)
    page.keyboard.press("j")
    shows(page, queue.ids[1])
    late: list[Any] = []
    third = re.compile(f"before={queue.ids[1]}")
    page.route(third, lambda route: late.append(route))
    page.keyboard.press("j")
    expect(page.locator("#main")).to_have_attribute("aria-busy", "true")
    eventually(lambda: page.evaluate("true") and late, 8, "the request for the third")  # a look lets Playwright take it
    page.go_back()
    shows(page, queue.ids[0])
    with page.expect_response(third) as came:
        late[0].continue_()
    came.value.finished()
    page.keyboard.press("j")
    shows(page, queue.ids[1])
    page.go_back()
    shows(page, queue.ids[0])
    expect(page).to_have_url(f"{queue.url}/review?tag={queue.tag}")


def test_only_what_was_saved_is_called_saved(page: Any, queue: Queue, database: Database) -> None:
    queue.open(page)
    announcer = page.locator("#announcer")
    page.get_by_label("A tag to add").fill("later")
    page.get_by_role("button", name="Add").click()
    expect(announcer).to_have_text("Saved.")
    taken = "UPDATE completions SET reviewing_by = 'another', reviewing_until = '2999-01-01' WHERE id = :id"
    for completion_id in queue.ids:
        database.execute(taken, id=completion_id)
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="Look again")).to_be_visible()
    page.evaluate("document.getElementById('announcer').textContent = ''")
    page.keyboard.press("j")
    expect(announcer).to_have_text("Nothing more to show.")


def test_the_skip_link_asks_for_no_other_page(page: Any, queue: Queue) -> None:
    queue.open(page)
    page.locator("html.js").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="Skip to the content").press("Enter")
    expect(page).to_have_url(re.compile("#main$"))
    expect(page.locator("#main")).to_be_focused()
    assert not [url for url in asked if "/review" in url]


def test_who_lost_an_answer_to_another_reviewer_sees_it(new_page: Callable[..., Any], queue: Queue, database: Database) -> None:
    page = new_page()
    page.clock.install()
    queue.open(page)
    note = page.locator("main").get_by_text("Another reviewer has this answer open.")
    expect(note).to_be_hidden()
    database.execute("UPDATE completions SET reviewing_by = 'another' WHERE id = :id", id=queue.ids[0])
    page.clock.run_for(46_000)
    expect(note).to_be_visible()
    expect(page.locator("#announcer")).to_contain_text("Another reviewer has this answer open.")


def test_two_browsers_do_not_get_the_same_one(new_page: Callable[..., Any], queue: Queue) -> None:
    ana, bob = queue.open(new_page()), queue.open(new_page())
    shows(ana, queue.ids[0])
    shows(bob, queue.ids[1])
    ana.keyboard.press("g")
    shows(ana, queue.ids[2])
    expect(ana.locator('[data-part="left"]')).to_have_text("2 left")


def test_a_correction_that_is_left_as_it_is_is_none(page: Any, queue: Queue) -> None:
    queue.open(page)
    page.keyboard.press("c")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    shows(page, queue.ids[1])
    assert [review["correction"] for review in queue.judgements(0)] == [None]


@pytest.mark.parametrize("more", ["", "\r\nand\rmore\n"])
def test_a_correction_goes_on_from_the_newest_and_can_be_taken_back(
        page: Any, service: Service, upstream: Upstream, more: str) -> None:
    queue = Queue(service, upstream, more)
    queue.open(page)
    answered = "**Answer** 1" + more.replace("\r\n", "\n").replace("\r", "\n")
    field = page.get_by_label("Corrected answer", exact=True)
    page.keyboard.press("c")
    field.fill("Better, with a tipo.")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    shows(page, queue.ids[1])
    page.keyboard.press("u")
    shows(page, queue.ids[0])
    page.keyboard.press("c")
    expect(field).to_have_value("Better, with a tipo.")
    field.fill("Better, without.")
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    shows(page, queue.ids[1])
    pairs = f"/history.preferences.jsonl?tag={queue.tag}"
    assert '"content":"Better, without."' in queue.client.get(pairs).text
    page.keyboard.press("u")
    shows(page, queue.ids[0])
    page.keyboard.press("c")
    page.get_by_role("button", name="Put back the model's answer").click()
    expect(field).to_have_value(answered)
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    shows(page, queue.ids[1])
    assert queue.client.get(pairs).text == ""
    assert "Better" not in queue.client.get(f"/history.csv?tag={queue.tag}").text
    page.keyboard.press("u")
    expect(page.locator('[data-part="said"]')).to_contain_text("the answer stands as the model wrote it")
    page.keyboard.press("c")
    expect(field).to_have_value(answered)


def test_a_refusal_is_said_and_nothing_moves(page: Any, queue: Queue, database: Database) -> None:
    queue.open(page)
    page.keyboard.press("s")
    expect(page.get_by_role("alert")).to_contain_text("Say good or bad")
    shows(page, queue.ids[0])
    database.execute("DELETE FROM completions WHERE id = :id", id=queue.ids[0])
    page.keyboard.press("g")
    expect(page.get_by_role("alert")).to_contain_text(f"There is no completion {queue.ids[0]}.")


def test_all_of_it_works_without_javascript(new_page: Callable[..., Any], queue: Queue) -> None:
    page = queue.open(new_page(java_script_enabled=False))
    shows(page, queue.ids[0])
    page.get_by_text("You judge as local").click()
    page.get_by_label("Your name").fill("Žofie")
    page.get_by_role("button", name="Keep this name").click()
    expect(page.locator(".who")).to_contain_text("You judge as Žofie")
    page.get_by_label("Reason").fill("made up")
    page.get_by_label("Reason").press("Enter")
    shows(page, queue.ids[0])
    page.locator("summary", has_text="Corrected answer").click()
    page.get_by_label("Corrected answer", exact=True).fill("First\nsecond")
    page.get_by_role("button", name="Bad").click()
    shows(page, queue.ids[1])
    (said,) = queue.judgements(0)
    assert (said["reviewer"], said["rating"], said["reason"], said["correction"]) == ("Žofie", "bad", "made up", "First\nsecond")
    page.get_by_label("A tag to add").fill("later")
    page.get_by_role("button", name="Add").click()
    shows(page, queue.ids[1])
    page.get_by_role("button", name="Remove the tag later").click()
    expect(page.get_by_role("button", name="Remove the tag later")).to_have_count(0)
    page.get_by_role("link", name="Skip", exact=True).click()
    shows(page, queue.ids[2])
    page.get_by_role("link", name="Back").click()
    shows(page, queue.ids[1])
    expect(page.locator(".needs-js:visible")).to_have_count(0)


@pytest.mark.parametrize("has_script", [True, False])
def test_a_user_gives_a_thumb_changes_it_and_takes_it_back(
        new_page: Callable[..., Any], queue: Queue, client: Client, has_script: bool) -> None:
    conversation = client.history(queue.ids[0])["conversation_id"]
    chat = Chat(new_page(java_script_enabled=has_script), queue.url)
    chat.page.goto(f"{queue.url}/?conversation={conversation}")
    up, down = (chat.turn().get_by_role("button", name=f"{name} answer") for name in ("Good", "Bad"))
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    down.click()
    expect(up).to_have_attribute("aria-pressed", "false")
    expect(down).to_have_attribute("aria-pressed", "true")
    chat.page.reload()
    expect(down).to_have_attribute("aria-pressed", "true")
    down.click()
    expect(down).to_have_attribute("aria-pressed", "false")
    said = queue.judgements(0)
    assert [(review["role"], review["rating"]) for review in said] == [("user", None), ("user", "bad"), ("user", "good")]


def test_a_new_answer_in_the_chat_has_its_own_thumbs(chat: Chat, upstream: Upstream, client: Client) -> None:
    chat.send(upstream.script(answer("One")).then(answer("Two")).prompt).ended()
    up = chat.turn().get_by_role("button", name="Good answer")
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(chat.announcer).to_have_text("Marked as a good answer.")
    first = chat.completion_id
    chat.click("Regenerate")
    expect(chat.answer).to_have_text("Two")
    chat.ended()
    expect(up).to_have_attribute("aria-pressed", "false")
    up.click()
    expect(up).to_have_attribute("aria-pressed", "true")
    assert [len(client.get(f"/history/{i}/reviews").json()["data"]) for i in (first, chat.completion_id)] == [1, 1]
