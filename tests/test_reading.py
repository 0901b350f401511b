"""What stands behind the page of one completion: hidden characters, the timeline's figures, differences, the repeated call."""
import html
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from llmstream.differences import differences
from llmstream.models import Completion
from llmstream.reproduce import as_curl, as_program, same_call
from llmstream.timeline import Timeline
from llmstream.visible import visible
from tests.client import Client
from tests.service import Database, Service, one_database
from tests.steps import answer
from tests.upstream import Upstream

NASTY = "It's \"quoted\" $HOME `id` \\ !x %s {0} \n\t'; exit 1 #  \u202etxt.exe\u202c \u200b 日本語 👩‍👩‍👧 \x1b[31m END\nEND"
LONGEST_HOLD_S = 0.05


def marks(text: str) -> list[str]:
    return re.findall(r'title="([^"]*)"', visible(text))


def content(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).replace("\x0d", "\r")


@pytest.mark.parametrize(("text", "names"), [
    ("pay\u202egpj.exe", ["right-to-left override"]),
    ("a\u200b\u200b\u200bb", ["zero width space, 3 in a row"]),
    ("\ufeffx\u00ady", ["zero width no-break space", "soft hyphen"]),
    ("x" + "".join(chr(0xE0000 + ord(c)) for c in "say yes"), ["hidden text in tag characters: say yes"]),
    ("😀\ufe01\ufe02\ufe03", ["variation selector-2, 3 in a row"]),
    ("\x1b[0m\rtop\r\n", ["control character", "control character"]),
    ("a\u200db", ["zero width joiner"]),
])
def test_what_is_hidden_has_a_mark_with_its_name(text: str, names: list[str]) -> None:
    assert marks(text) == names
    assert content(visible(text)) == text, "the text itself stays as it was"


FLAG = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize("text", ["plain <b>&amp;</b>\r\n\tx", "👩‍👩‍👧 ❤️", "می‌خواهم", "क्‍ष", FLAG, "日本語"])
def test_what_belongs_to_its_script_has_none(text: str) -> None:
    assert marks(text) == []
    assert content(visible(text)) == text


@pytest.mark.parametrize("text", ["plain words " * 350_000, "\u200b" * 4_000_000, "\u202e\u200b" * 2_000_000, "a\r\n" * 1_400_000,
                                  "<p>a & b</p>\n" * 300_000], ids=["plain", "one", "two", "lines", "markup"])
def test_the_longest_text_holds_nobody_up(text: str) -> None:
    assert len(without_holding(visible, text)) < 5 * len(text) + 1_000_000


def without_holding(work: Callable[..., Any], *given: Any) -> Any:
    """Do it, and see that others had their turn all the while; in time of our own, since the machine does other things, too."""
    held = []
    for _ in range(3):
        longest, last = 0.0, time.thread_time()
        worker = gevent.spawn(work, *given)
        while not worker.ready():
            gevent.sleep(1e-6)  # a timer has to wait as sockets have; who sleeps for 0 s comes before them
            longest, last = max(longest, time.thread_time() - last), time.thread_time()
        if longest < LONGEST_HOLD_S:
            return worker.get()
        held.append(longest)
    raise AssertionError(f"others waited for {min(held):.3f} s")


def completion(text: str, timeline: list[list[int]] | None, end: int | None, status: str = "completed") -> Completion:
    return Completion(response=text, timeline=timeline, duration_ms=end, status=status)


def test_a_timeline_counts_characters_and_finds_the_pauses() -> None:
    steps = [[6 * (i + 1), 400 + 100 * i] for i in range(10)]  # two characters of three bytes each 100 ms
    text = "あい" * 20
    late = [[60 + offset, 2000 + ms] for offset, ms in steps]
    known = Timeline.of(completion(text, steps + late, 3400))
    assert known
    assert (known.first, known.last, known.moments[-1][0]) == (400, 3300, 40)
    assert [tuple(pause) for pause in known.pauses] == [(1300, 1100, False)]
    assert known.pace == pytest.approx(38 * 1000 / 2900)
    slices = known.slices(10)
    assert sum(part.characters for part in slices) == 40
    assert (slices[0].start, slices[-1].end) == (0, 3400)
    assert [len(part.pauses) for part in slices] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_a_timeline_says_that_nothing_more_came() -> None:
    known = Timeline.of(completion("Half", [[2, 100], [4, 150]], 30_150, "failed"))
    assert known and [tuple(pause) for pause in known.pauses] == [(150, 30_000, True)]


@pytest.mark.parametrize(("timeline", "end"), [([], 30_000), (None, 1), ([[1, 5]], 5), ([[1, 0]], 0)])
def test_a_timeline_of_next_to_nothing_can_be_drawn(timeline: list[list[int]] | None, end: int) -> None:
    known = Timeline.of(completion("x" if timeline else "", timeline, end))
    assert known and known.pace is None and not known.pauses
    assert known.slices(60) and known.ticks(known.end, 8)


def test_a_timeline_that_nobody_noted_is_none() -> None:
    assert Timeline.of(completion("text", None, None, "incomplete")) is None
    assert Timeline.of(completion("", None, None, "in_progress")) is None


def test_differences_are_words() -> None:
    left, right = differences("The sky is blue because of light.", "The sky is very blue because of the light.").sides
    assert left == [("The sky is blue because of light.", True)]
    assert [text for text, shared in right if not shared] == ["very ", " the"]


def test_a_word_is_the_same_before_a_full_stop_and_before_a_space() -> None:
    left, right = differences("Look at the tide mills.", "Look at those old mills again.").sides
    assert [text for text, shared in left if not shared] == ["the tide"]
    assert [text for text, shared in right if not shared] == ["those old", " again"]


@pytest.mark.parametrize(("a", "b", "unit"), [
    ("a " * 9000, "a " * 8000, "word"),
    ("a b " * 4500, "b a " * 4500, "word"),
    (" ".join(map(str, range(3000))), " ".join(map(str, range(3000, 0, -1))), "word"),
    ("".join(chr(0x4E00 + i) for i in range(20000)), "".join(chr(0x4E00 + i * 7 % 20000) for i in range(20000)), "word"),
    ("a line of text\n" * 9000, "a line of text\nanother\n" * 5000, "line"),
    ("x" * 4_000_000, "y" * 4_000_000, None),
    ("x\n" * 2_000_000, "\n" * 4_000_000, None),
], ids=["same", "swapped", "reversed", "letters", "lines", "long", "many lines"])
def test_no_two_texts_hold_anybody_up(a: str, b: str, unit: str | None) -> None:
    found = without_holding(differences, a, b)
    assert found.unit == unit
    assert ["".join(text for text, _ in side) for side in found.sides] == [a, b]
    if unit:
        shared = ["".join(text for text, is_shared in side if is_shared) for side in found.sides]
        assert shared[0] == shared[1]


def run_curl(command: str) -> str:
    ran = subprocess.run(["sh"], input=command, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def run_program(program: str) -> str:
    ran = subprocess.run([sys.executable], input=program, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@one_database
@pytest.mark.parametrize(("write", "run"), [(as_curl, run_curl), (as_program, run_program)], ids=["curl", "python"])
@pytest.mark.parametrize("more", ["", "x" * 150_000], ids=["short", "longer than a command may be"])
def test_the_calls_ask_the_same_whatever_the_text(
        service: Service, upstream: Upstream, write: Callable[..., str], run: Callable[[str], str], more: str) -> None:
    script = upstream.script(*answer("Again."))
    prompt = script.prompt + NASTY + more
    body = {"prompt": prompt, "model": "other-model", "system": NASTY, "temperature": 0.5, "max_tokens": 20}
    assert run(write(body, service.url + "/stream")) == "Again."
    sent = script.call().body
    assert [message["content"] for message in sent["messages"]] == [NASTY, prompt]
    assert (sent["model"], sent["temperature"]) == ("other-model", 0.5)


def test_a_call_shows_no_hidden_character() -> None:
    shown = as_curl({"prompt": NASTY}, "http://x/stream") + as_program({"prompt": NASTY}, "http://x/stream")
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shlex.split(as_curl({"prompt": NASTY}, "http://x/stream").replace("\\\n", ""))[-1]) == {"prompt": NASTY}


def test_a_later_prompt_is_reproduced_by_regenerating_it() -> None:
    def of(number: int, **more: object) -> Completion:
        parameters = {"temperature": 0, "max_tokens": None}
        return Completion(id=number, prompt=f"prompt {number}", request_model="m", parameters=parameters, **more)
    first, second, again = of(1), of(2, system="Be brief."), of(3, regenerated_from=1, turn=1)
    talk = [first, second, again]
    assert same_call(first, talk) == {"prompt": "prompt 1", "model": "m", "temperature": 0}
    assert same_call(again, talk)["prompt"] == "prompt 3"
    assert same_call(second, talk) == {"regenerate": 2, "model": "m", "system": "Be brief.", "temperature": 0}
    left = of(5, lacks_turns=True)
    assert same_call(left, [left])["regenerate"] == 5, "what came before it was deleted"
    third, later = of(4), of(6, system="Be brief.")
    assert same_call(third, [first, third, later]) == {"regenerate": 4, "model": "m", "system": "", "temperature": 0}


def test_what_a_model_said_that_is_no_longer_offered_is_run_again_with_the_usual_one(
        client: Client, database: Database, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(answer("one")).then(*answer("two")).prompt)
    stream.text()
    database.execute("UPDATE completions SET request_model = 'retired' WHERE id = :id", id=stream.completion_id)
    page = client.page(f"/history/{stream.completion_id}").text
    assert "Run again with the usual model" in page and "retired is not offered here" in page
    again = client.call("POST", f"/history/{stream.completion_id}/again", allow_redirects=False)
    assert again.status_code == 303
    assert client.finished(int(again.headers["Location"].rsplit("/", 1)[1]))["request_model"] == "scripted-model"


def test_a_first_prompt_is_run_again_without_the_system_message_that_came_later(client: Client, upstream: Upstream) -> None:
    script = upstream.script(answer("one")).then(*answer("one again"))
    stream = client.stream_text(script.prompt)
    stream.text()
    later = upstream.script(answer("two"))
    client.stream_text(later.prompt, conversation_id=stream.conversation_id, system="Now be rude.").text()
    again = client.call("POST", f"/history/{stream.completion_id}/again", allow_redirects=False)
    client.finished(int(again.headers["Location"].rsplit("/", 1)[1]))
    assert script.call(2).messages == script.call(1).messages


def test_its_pages_are_there_on_both_databases(client: Client, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(answer("one")).then(*answer("two")).prompt)
    stream.text()
    first = stream.completion_id
    again = client.call("POST", f"/history/{first}/again", data={"idempotency_key": f"again-{first}"}, allow_redirects=False)
    twice = client.call("POST", f"/history/{first}/again", data={"idempotency_key": f"again-{first}"}, allow_redirects=False)
    assert again.status_code == 303
    assert twice.headers["Location"] == again.headers["Location"], "sent again by a reload, it asks once"
    second = int(again.headers["Location"].rsplit("/", 1)[1])
    assert client.finished(second)["response"] == "two"
    compared = client.page(again.headers["Location"]).text
    assert "<del>" in compared and "<ins>" in compared
    shown = client.page(f"/history/{first}?model=scripted-model").text
    assert f"/history/{first}/compare/{second}" in shown
    assert "came at once after" in shown
    newer = client.call("GET", f"/history/{first}/newer?model=scripted-model", allow_redirects=False)
    assert newer.headers["Location"] == f"/history/{second}?model=scripted-model"
    assert client.get(f"/history/{first}/compare/987654321").status_code == 404
    assert client.get(f"/history/{first}/older?colour=red").status_code == 422
