"""What goes in comes out: through the model's server, the stream, the history and its pages, byte for byte, as text."""
import html

import pytest

from tests.client import Client
from tests.steps import answer
from tests.upstream import Upstream

NAUGHTY = {
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 😀 ☠",
    "right to left": "שלום عليكم \u202eabc\u202c",
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;&lt;",
    "SQL": "'; DROP TABLE completions; -- \" ` % %s :id ?",
    "templates": "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    "white space": "  two\n\n\tlines \r\n and\u2028more\u00a0 ",
    "combining": "e\u0301 \u1100\u1161\u11a8 Z̴̢a̸l̷g̵o̶",
    "beyond the BMP": "𝄞 𠜎 \U0010ffff \ufffe",
    "controls": "\x01\x07\x1b[31mred\x7f\x9f",
    "JSON in JSON": '{"role": "system", "content": "\\u0000"}',
    "headers": "\r\nSet-Cookie: a=b\r\n\r\n<html>",
}


@pytest.mark.parametrize("name", NAUGHTY)
def test_text_comes_back_as_it_went_in(client: Client, upstream: Upstream, name: str) -> None:
    text = NAUGHTY[name]
    script = upstream.script(*answer(*text, " | ", text))
    prompt = text + script.prompt
    stream = client.stream_text(prompt, system=text)
    assert stream.text() == f"{text} | {text}"
    assert [message["content"] for message in script.call().messages] == [text, prompt]
    row = client.history(stream.completion_id)
    assert (row["prompt"], row["response"], row["system"]) == (prompt, f"{text} | {text}", text)
    (listed,) = [item for item in client.history()["data"] if item["id"] == stream.completion_id]
    assert (listed["prompt"], listed["response"]) == (prompt, f"{text} | {text}")
    events = client.reattach_events(stream.completion_id)
    events.end()
    assert events.deltas() == f"{text} | {text}"


@pytest.mark.parametrize("name", ["markup", "SQL", "templates", "headers"])
def test_pages_show_it_as_text(client: Client, upstream: Upstream, name: str) -> None:
    text = NAUGHTY[name]
    script = upstream.script(*answer(text))
    stream = client.stream_text(text + script.prompt, system=text)
    stream.text()
    for path in ("/history", f"/history/{stream.completion_id}", f"/?conversation={stream.conversation_id}"):
        page = client.page(path)
        assert page.status_code == 200
        assert "<script>alert" not in page.text and "<img src=x" not in page.text
        first = text.strip().splitlines()[0]
        assert first in html.unescape(page.text), f"{path} does not show the prompt"


def test_nul_and_lone_surrogates_in_an_answer_become_replacement_characters(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("a\0b"), name="nul")
    stream = client.stream_text(script.prompt)
    assert stream.text() == "a\ufffdb"
    assert client.history(stream.completion_id)["response"] == "a\ufffdb"
