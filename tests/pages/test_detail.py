"""The page of one completion: its timeline and replay, the call that repeats it, comparisons, and what hides in a text."""
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Client, eventually
from tests.exchange import Gate
from tests.pages.chat import SQLITE, Wire, expect
from tests.service import Database, Service
from tests.steps import answer, delta, done, finish, held, status, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
HIDDEN = "pay\u202egpj.exe\u202c now\u200b\u200b"
NASTY = "It's $HOME `id` \\ \n\"x\" {0} \u202e 日本語"


class Reading:
    """Answers that are made, and the page that shows one."""

    def __init__(self, service: Service, upstream: Upstream, database: Database) -> None:
        self.service, self.client, self.upstream, self.database = service, service.client, upstream, database

    def ask(self, text: str, prompt: str = "", **fields: Any) -> int:
        stream = self.client.stream_text(prompt + self.upstream.script(answer(text)).prompt, **fields)
        stream.text()
        return stream.completion_id

    def timed(self, pieces: list[tuple[str, int]], end: int) -> int:
        """An answer whose pieces came at these ms."""
        completion_id = self.ask("".join(text for text, _ in pieces))
        offset, timeline = 0, []
        for text, ms in pieces:
            offset += len(text.encode())
            timeline.append([offset, ms])
        self.database.execute(
            "UPDATE completions SET timeline = :timeline, duration_ms = :end, time_to_first_token_ms = :first WHERE id = :id",
            timeline=json.dumps(timeline), end=end, first=timeline[0][1], id=completion_id)
        return completion_id

    def open(self, page: Any, completion_id: int, more: str = "") -> Any:
        page.goto(f"{self.service.url}/history/{completion_id}{more}")
        return page


@pytest.fixture
def reading(service: Service, upstream: Upstream, database: Database) -> Reading:
    return Reading(service, upstream, database)


def test_the_timeline_says_when_the_text_came(page: Any, reading: Reading) -> None:
    early = [("ab", 400 + 100 * i) for i in range(10)]
    late = [("cd", 3400 + 100 * i) for i in range(10)]
    reading.open(page, reading.timed(early + late, 4500))
    said = "First text after 400 ms, then 10 characters a second with one pause of 2.1 s at 1.3 s; completed after 4.5 s."
    picture = page.get_by_role("img", name=said)
    expect(picture).to_be_visible()
    expect(page.locator(".timeline figcaption")).to_have_text(said)
    expect(picture.locator("text.pause-words")).to_have_text("pause 2.1 s")
    pause, first = picture.locator("rect.pause").bounding_box(), picture.locator("path.first").bounding_box()
    whole = picture.locator("rect.wait").bounding_box()["x"], picture.locator("path.end").bounding_box()["x"]
    at = [(x - whole[0]) / (whole[1] - whole[0]) * 4.5 for x in (first["x"], pause["x"], pause["x"] + pause["width"])]
    assert at == pytest.approx([0.4, 1.3, 3.4], abs=0.05)
    page.get_by_text("The same as a table").click()
    table = page.get_by_role("region", name="The stream as a table")
    expect(table).to_contain_text("First text at 400 ms.")
    expect(table).to_contain_text("Pause from 1.3 s for 2.1 s.")
    expect(table.locator("tr").last).to_contain_text("Completed at 4.5 s.")
    assert sum(map(int, table.locator("td:nth-child(3)").all_inner_texts())) == 40


def test_a_timeline_of_next_to_nothing_says_so(page: Any, reading: Reading) -> None:
    reading.open(page, reading.timed([("All of it", 300)], 320))
    said = page.locator(".timeline figcaption")
    expect(said).to_have_text("All 9 characters came at once after 300 ms; completed after 320 ms.")
    refused = reading.client.ask(reading.upstream.script(status(500)).prompt)
    reading.open(page, int(refused.headers["Completion-Id"]))
    expect(said).to_contain_text("No text came; failed after")
    expect(page.get_by_role("group", name="Replay")).to_have_count(0)
    lost = reading.ask("Lost times")
    reading.database.execute("UPDATE completions SET timeline = NULL, status = 'incomplete' WHERE id = :id", id=lost)
    reading.open(page, lost)
    seen = page.locator("section", has=page.locator("#timeline-title"))
    expect(seen).to_contain_text("the worker that had noted these was gone")


def test_the_replay_writes_the_answer_as_it_came(new_page: Callable[..., Any], reading: Reading) -> None:
    page = new_page()
    page.clock.install()
    completion_id = reading.timed([("Grüße ", 1000), ("👩‍👩‍👧 ", 2000), ("日本語", 4000)], 5000)
    reading.open(page, completion_id)
    box, announcer = page.get_by_role("region", name="The answer as it came"), page.locator("#announcer")
    expect(box).to_have_count(0)
    page.get_by_role("button", name="Replay", exact=True).focus()
    page.keyboard.press("Enter")
    expect(announcer).to_have_text("The replay has started.")
    page.clock.run_for(1100)
    expect(box).to_have_text("Grüße")
    page.clock.run_for(1000)
    expect(box).to_have_text("Grüße 👩‍👩‍👧")
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(9000)
    expect(box).to_have_text("Grüße 👩‍👩‍👧")
    expect(announcer).to_have_text("The replay has started.")
    page.get_by_role("button", name="4x").click()
    page.get_by_role("button", name="Go on").click()
    page.clock.run_for(800)
    expect(box).to_have_text("Grüße 👩‍👩‍👧 日本語")
    expect(announcer).to_have_text("The replay has ended.")
    slider = page.get_by_role("slider", name="Position")
    slider.evaluate("slider => { slider.value = 1500; slider.dispatchEvent(new Event('input')); }")
    expect(box).to_have_text("Grüße")
    expect(slider).to_have_attribute("aria-valuetext", "1.5 of 5.0 s")
    page.get_by_role("button", name="From the beginning").click()
    expect(box).to_have_text("")


def test_the_shown_calls_get_an_answer(page: Any, reading: Reading) -> None:
    script = reading.upstream.script(answer("one")).then(*answer("two")).then(*answer("three"))
    stream = reading.client.stream_text(script.prompt + NASTY, system="Be brief.", temperature=0.5)
    stream.text()
    reading.open(page, stream.completion_id)
    texts = [page.locator(f'[data-call="{name}"]').text_content() for name in ("curl", "python")]
    for command, text, wanted in ((["sh"], texts[0], "two"), ([sys.executable], texts[1], "three")):
        ran = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
        assert (ran.returncode, ran.stdout) == (0, wanted), ran.stderr
    assert script.call(2).body == script.call(3).body == script.call(1).body


def test_a_later_prompt_is_repeated_with_what_came_before(page: Any, reading: Reading) -> None:
    first = reading.client.stream_text(reading.upstream.script(answer("one")).prompt)
    first.text()
    script = reading.upstream.script(answer("two")).then(*answer("two again"))
    second = reading.client.stream_text(script.prompt, conversation_id=first.conversation_id)
    second.text()
    reading.ask("three", conversation_id=first.conversation_id, system="Now something else.")
    reading.open(page, second.completion_id)
    ran = subprocess.run(["sh"], input=page.locator('[data-call="curl"]').text_content(), capture_output=True, text=True)
    assert ran.stdout == "two again", ran.stderr
    assert script.call(2).messages == script.call(1).messages


@pytest.mark.parametrize("script", [True, False], ids=["with a script", "without"])
def test_run_again_leads_to_both_answers_side_by_side(new_page: Callable[..., Any], reading: Reading, script: bool) -> None:
    gate = Gate()
    asked = reading.upstream.script(answer("The sky is blue today.")).then(*held(gate, "The sky is ", "grey today."))
    stream = reading.client.stream_text(asked.prompt)
    stream.text()
    page = reading.open(new_page(java_script_enabled=script), stream.completion_id)
    page.get_by_role("button", name="Run again").click()
    expect(page.locator(".progress")).to_contain_text("is being written")
    gate.open()
    again = int(page.url.rsplit("/", 1)[1])
    assert reading.client.finished(again)["regenerated_from"] == stream.completion_id
    if not script:
        page.reload()
    expect(page.locator(".pair del")).to_have_text("[only here: blue] ")
    expect(page.locator(".pair ins")).to_have_text("[only here: grey] ")
    expect(page.locator(".progress")).to_have_count(0)
    expect(page.locator(".figures-table")).to_contain_text("Whole answer after")
    page.get_by_role("form", name=f"Judge completion {again}").get_by_role("button", name="Good").click()
    expect(page.get_by_role("form", name=f"Judge completion {again}")).to_contain_text("Rated good so far.")
    assert reading.client.history(again)["rating"] == "good" and reading.client.history(stream.completion_id)["rating"] is None
    reading.open(page, stream.completion_id)
    page.get_by_role("link", name=f"compare with {again}").click()
    expect(page).to_have_url(f"{reading.service.url}/history/{stream.completion_id}/compare/{again}")


def test_run_again_after_the_way_back_asks_once_more(page: Any, reading: Reading) -> None:
    script = reading.upstream.script(answer("one")).then(*answer("two")).then(*answer("three"))
    stream = reading.client.stream_text(script.prompt)
    stream.text()
    reading.open(page, stream.completion_id)
    key = page.locator('[name="idempotency_key"]')
    for text in ("two", "three"):
        used = key.input_value()
        page.get_by_role("button", name="Run again").click()
        page.wait_for_url("**/compare/*")
        expect(page.locator(".pair .answer").last).to_contain_text(text)
        expect(page.locator(".progress")).to_have_count(0)
        page.go_back()
        expect(key).not_to_have_value(used)


def test_an_answer_to_somebody_elses_prompt_says_where_it_came_from(page: Any, reading: Reading) -> None:
    """Even when that prompt is deleted: then only its messages tell."""
    completion_id = reading.ask("Asked aside")
    origin = page.locator(".fact", has=page.get_by_text("Regenerated from", exact=True))
    reading.open(page, completion_id)
    expect(origin).to_contain_text("nothing: this is the first answer to its prompt")
    messages = json.dumps([{"role": "user", "content": "Asked before"}])
    reading.database.execute("UPDATE completions SET messages = :messages WHERE id = :id", messages=messages, id=completion_id)
    reading.open(page, completion_id)
    expect(origin).to_contain_text("an answer that was deleted since")


def test_only_what_changes_of_a_comparison_is_renewed(page: Any, reading: Reading) -> None:
    gates = [Gate(), Gate()]
    script = reading.upstream.script(delta("so "), wait_for(gates[0]), delta("far"), wait_for(gates[1]), finish(), done())
    still, stream = reading.ask("It stays."), reading.client.stream_text(script.prompt)
    stream.read_until("so ")
    reading.open(page, still, f"/compare/{stream.completion_id}")
    answers = page.locator(".pair .answer")
    page.get_by_role("heading", name=f"Completion {stream.completion_id}").get_by_role("link").focus()
    answers.first.select_text()
    gates[0].open()
    expect(answers.last).to_contain_text("far")
    assert "It stays." in page.evaluate("getSelection().toString()")
    gates[1].open()
    expect(page.locator("#announcer")).to_have_text("Both answers have ended.")
    expect(page.locator(".pair .badge").last).to_have_text("Completed")
    expect(page.get_by_role("heading", name=f"Completion {stream.completion_id}").get_by_role("link")).to_be_focused()
    expect(page.get_by_role("button", name=f"Run {still} again")).to_be_visible()
    assert "It stays." in page.evaluate("getSelection().toString()")


def test_two_answers_stand_side_by_side_or_below_each_other(new_page: Callable[..., Any], reading: Reading) -> None:
    pair = [reading.ask("One answer. " * 20), reading.ask("Another answer. " * 20)]
    for options, is_below in (({}, False), (PHONE, True)):
        page = reading.open(new_page(**options), pair[0], f"/compare/{pair[1]}")
        boxes = [box.bounding_box() for box in page.locator(".pair > section").all()]
        assert (boxes[1]["y"] > boxes[0]["y"]) == is_below
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_texts_that_cannot_be_compared_in_time_are_shown_unmarked(page: Any, reading: Reading) -> None:
    pair = [reading.ask("short"), reading.ask("x\n" * 11_000)]
    reading.open(page, pair[1], f"/compare/{pair[1]}")
    expect(page.locator(".legend")).to_contain_text("the same, character for character")
    reading.database.execute("UPDATE completions SET response = :text WHERE id = :id", text="y\n" * 15_000, id=pair[0])
    reading.open(page, pair[0], f"/compare/{pair[1]}")
    expect(page.locator(".legend")).to_contain_text("too long to be compared; nothing is marked")


@pytest.mark.parametrize("script", [True, False], ids=["with a script", "without"])
def test_hidden_characters_are_seen_and_named(new_page: Callable[..., Any], reading: Reading, script: bool) -> None:
    completion_id = reading.ask(f"**{HIDDEN}**", prompt=HIDDEN)
    page = reading.open(new_page(java_script_enabled=script), completion_id)
    for part in ("prompt", "answer"):
        shown = page.locator(f'[data-part="{part}"]')
        expect(shown.get_by_role("img", name="right-to-left override")).to_be_visible()
        expect(shown.get_by_title("zero width space, 2 in a row")).to_have_count(1)
    expect(page.locator('[data-part="answer"] strong .hidden-character')).to_have_count(3 if script else 0)
    page.get_by_role("link", name="Raw").click()
    expect(page).to_have_url(f"{reading.service.url}/history/{completion_id}?view=raw" + ("" if script else "#answer-title"))
    expect(page.locator('[data-part="answer"].raw .hidden-character')).to_have_count(3)
    assert page.locator('[data-part="answer"]').text_content() == f"**{HIDDEN}**"


def test_a_raw_answer_is_raw_from_the_start(page: Any, reading: Reading) -> None:
    text = "\n# Title\r\n\ttab  two spaces\n"
    completion_id = reading.ask(text)
    reading.open(page, completion_id, "?view=raw")
    page.locator("html.js").wait_for()
    assert page.locator('[data-part="answer"]').text_content() == text
    page.get_by_role("link", name="As shown").click()
    expect(page.locator('[data-part="answer"] .level-1')).to_have_text("Title")
    assert reading.client.page(f"/history/{completion_id}?view=sideways").status_code == 422


def test_keys_walk_the_list_that_the_reader_came_from(page: Any, reading: Reading) -> None:
    found = [reading.ask(f"Answer {number}", model="other-model", system="keys") for number in (1, 2)]
    reading.ask("Between")
    found.append(reading.ask("Answer 3", model="other-model"))
    reading.open(page, found[1], "?model=other-model&source=api")
    page.locator("html.js").wait_for()
    page.keyboard.press("k")
    expect(page).to_have_url(f"{reading.service.url}/history/{found[2]}?model=other-model&source=api")
    page.locator("html.js").wait_for()
    page.keyboard.press("j")
    expect(page).to_have_url(f"{reading.service.url}/history/{found[1]}?model=other-model&source=api")
    page.get_by_role("link", name="History", exact=True).last.click()
    expect(page).to_have_url(f"{reading.service.url}/history?model=other-model&source=api")


def test_who_judges_or_tags_stays_in_the_list_that_they_came_from(new_page: Callable[..., Any], reading: Reading) -> None:
    completion_id = reading.ask("Judge me", model="other-model")
    page = reading.open(new_page(java_script_enabled=False), completion_id, "?model=other-model&source=api")
    address = f"{reading.service.url}/history/{completion_id}?model=other-model&source=api#judge"
    page.get_by_role("button", name="Good").click()
    expect(page).to_have_url(address)
    expect(page.locator('[data-part="said"]')).to_contain_text("Good by local")
    page.get_by_label("A tag to add").fill("kept")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("link", name="kept")).to_be_visible()
    expect(page).to_have_url(address)


def test_what_was_typed_outlives_a_tag_another_page_and_a_refusal(page: Any, reading: Reading, wire: Wire) -> None:
    older, shown = reading.ask("The older one"), reading.ask("The one that is judged")
    page.goto(f"{wire.url}/history/{shown}")
    note, said = page.get_by_label("Note", exact=True), page.locator('[data-part="said"]')
    page.keyboard.press("n")
    page.keyboard.type("half a thought")
    page.get_by_label("A tag to add").fill("kept")
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("link", name="kept")).to_be_visible()
    expect(page.locator("#tag")).to_be_focused()
    expect(note).to_have_value("half a thought")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page).to_have_url(f"{wire.url}/history/{older}")
    expect(note).to_have_value("")
    page.locator("html.js").wait_for()
    page.keyboard.press("k")
    expect(page).to_have_url(f"{wire.url}/history/{shown}")
    expect(note).to_have_value("half a thought")
    wire.cut()
    page.keyboard.press("g")
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(note).to_have_value("half a thought")
    wire.mend()
    page.keyboard.press("g")
    expect(said).to_contain_text("half a thought")
    expect(page.locator("#announcer")).to_have_text("Judged good.")
    expect(page.locator("#judge-title")).to_be_focused()
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".facts")).not_to_contain_text("no reviewer has judged it yet")
    page.reload()
    expect(said).to_contain_text("half a thought")
    expect(note).to_have_value("")


def test_a_refused_judgement_says_why_where_it_stands(page: Any, reading: Reading) -> None:
    reading.open(page, reading.ask("Judge me"))
    page.locator("summary", has_text="Note").click()
    note = page.get_by_label("Note", exact=True)
    note.fill("é" * 40_000)
    page.get_by_role("button", name="Good").click()
    expect(page.get_by_role("alert")).to_have_text("note: At most 64 KiB. Nothing was saved.")
    expect(note).to_have_value("é" * 40_000)


def test_the_page_of_an_answer_is_worked_with_keys(page: Any, reading: Reading, client: Client) -> None:
    completion_id = reading.timed([("some ", 100), ("text", 60_000)], 61_000)
    reading.open(page, completion_id)
    page.keyboard.press("v")
    expect(page.locator('[data-view="raw"]')).to_have_attribute("aria-current", "true")
    page.keyboard.press("p")
    expect(page.locator('[data-replay="toggle"]')).to_have_text("Pause")
    for key, field, words in (("r", "reason", "wrong tone"), ("n", "note", "too short"), ("c", "correction", " and more")):
        page.keyboard.press(key)
        expect(page.locator(f"#{field}")).to_be_focused()
        page.keyboard.press("Control+End")
        page.keyboard.type(words)
        page.keyboard.press("Escape")
    page.keyboard.press("b")
    expect(page.locator('[data-part="said"]')).to_contain_text("too short")
    (said,) = client.get(f"/history/{completion_id}/reviews").json()["data"]
    assert [said[name] for name in ("rating", "reason", "note", "correction")] == [
        "bad", "wrong tone", "too short", "some text and more"]
    page.keyboard.press("t")
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="by keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Save without a rating")


def test_the_whole_conversation_is_there_without_a_script(new_page: Callable[..., Any], reading: Reading, client: Client) -> None:
    first = client.stream_text(reading.upstream.script(answer("First. " * 300)).prompt)
    first.text()
    last = reading.ask("Last.", conversation_id=first.conversation_id)
    page = reading.open(new_page(java_script_enabled=False, color_scheme="dark", **PHONE), last)
    talk = page.locator(".talk > li")
    expect(talk).to_have_count(2)
    talk.first.locator("summary").click()
    expect(talk.first.locator(".answer")).to_have_text(("First. " * 300).strip())
    expect(page.locator(".needs-js:visible")).to_have_count(0)
    expect(page.locator("svg.timeline-narrow")).to_be_visible()
    expect(page.locator("svg.timeline-wide")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_one_answer_is_deleted_from_its_page(page: Any, reading: Reading) -> None:
    completion_id = reading.ask("Forget this.")
    reading.open(page, completion_id)
    page.locator("summary", has_text="Delete").click()
    page.get_by_role("button", name=f"Delete completion {completion_id}").click()
    expect(page).to_have_url(f"{reading.service.url}/history")
    assert reading.client.get(f"/history/{completion_id}").status_code == 404


def test_what_is_known_only_at_the_end_comes_without_a_reload(page: Any, reading: Reading) -> None:
    gate = Gate()
    script = reading.upstream.script(delta("so "), wait_for(gate), delta("far"), finish(), done())
    stream = reading.client.stream_text(script.prompt)
    reading.open(page, stream.completion_id)
    expect(page.get_by_text("Drawn when the answer has ended.")).to_be_visible()
    gate.open()
    expect(page.locator(".timeline figcaption")).to_contain_text("completed after")
    eventually(lambda: page.get_by_role("button", name="Replay", exact=True).count())
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.get_by_role("region", name="The answer as it came")).to_be_visible()
