"""The scripts' own parts, alone: the reader of event streams and the Markdown that grows."""
import itertools
import time

import pytest

from tests.pages.chat import SQLITE, Chat

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
MARKDOWN = """Setext
===

A paragraph with a [link][later], a *star and
two lines
---

- one
- two

  still two
    - nested

      deeper
- three

1) other list

> quoted
> ```
> code
> ```

    indented

    more

```python
def f():
    return "`" * 3

```
~~~
open fence

| a | b |
|--:|:-:|
| 1 | 2 |
~~~

| a | b |
|--:|:-:|
| 1 | 2 |
no table any more

* * *

[later]: https://example.org/later "t"
Ende &amp; ümläut 👩‍👩‍👧 <b>no</b>\r\nnew line
"""
GROW = """async ({text, step}) => {
    const { MarkdownView } = await import("/static/js/markdown.js");
    const [grown, whole] = [document.createElement("div"), document.createElement("div")];
    const view = new MarkdownView(grown);
    for (let end = 1; end < text.length; end += step) await view.update(text.slice(0, end));
    const before = grown.innerHTML.length;
    await view.finish(text);
    await new MarkdownView(whole).finish(text);
    return [grown.innerHTML, whole.innerHTML, before];
}"""
SLICED = """async (text) => {
    const { MarkdownView } = await import("/static/js/markdown.js");
    const element = document.body.appendChild(document.createElement("div"));
    let last = performance.now(), longest = 0;
    const timer = setInterval(() => { longest = Math.max(longest, performance.now() - last); last = performance.now(); });
    await new MarkdownView(element).finish(text);
    await new Promise((done) => setTimeout(done, 50));
    clearInterval(timer);
    return [longest, element.children.length, element.innerText];
}"""
EMPHASIS = "_" * 40_000 + "a" + "*_" * 10_000
NESTED = "".join("  " * level + "- x\n" for level in range(400))
WIDE = "|" + "a|" * 2000 + "\n|" + "-|" * 2000 + "\n" + ("|" + "b|" * 2000 + "\n") * 3
SSE = """async (pieces) => {
    const { EventParser } = await import("/static/js/sse.js");
    const parser = new EventParser();
    return pieces.flatMap((piece) => parser.push(piece));
}"""


def test_markdown_that_grew_is_the_same_as_markdown_that_was_whole(chat: Chat) -> None:
    for step in (1, 7, 50):
        grown, whole, before = chat.page.evaluate(GROW, {"text": MARKDOWN, "step": step})
        assert grown == whole
        assert before > 500


@pytest.mark.alone
def test_markdown_made_to_break_a_parser_stays_text(chat: Chat) -> None:
    table = "|" * 5000 + "\n" + "|-" * 5000
    for text in ("> " * 5000 + "x", "[" * 20000, "*" * 20000, "- " * 3000 + "x", "`" * 9999, table):
        started = time.monotonic()
        grown, whole, _ = chat.page.evaluate(GROW, {"text": text, "step": 20_000})
        assert grown == whole
        assert time.monotonic() - started < 4, f"{text[:9]!r} held the page"


@pytest.mark.alone
@pytest.mark.parametrize("text", [EMPHASIS, NESTED, WIDE, "- a\n" + "b\n" * 20_000, "- - " * 20_000 + "a"],
                         ids=["emphasis", "nested", "wide", "lazy", "rules"])
def test_what_is_too_much_for_a_parser_is_shown_as_it_was_written(chat: Chat, text: str) -> None:
    longest_ms, _, shown = chat.page.evaluate(SLICED, f"Before\n\n{text}\n\nAfter **it**")
    assert longest_ms < 3000
    assert shown.split() == ["Before", *text.split(), "After", "it"]


@pytest.mark.alone
def test_a_long_answer_is_rendered_in_slices(chat: Chat) -> None:
    text = "\n\n".join(f"Paragraph {number} with **bold** words" for number in range(4000))
    longest_ms, blocks, shown = chat.page.evaluate(SLICED, text)
    assert blocks == 4000
    assert "**" not in shown
    assert longest_ms < 1500


def test_only_what_changed_is_made_anew(chat: Chat) -> None:
    kept = chat.page.evaluate("""async () => {
        const { MarkdownView } = await import("/static/js/markdown.js");
        const element = document.createElement("div");
        const view = new MarkdownView(element);
        const text = Array.from({length: 50}, (_, i) => `Paragraph ${i}\\n\\n`).join("") + "```\\ncode\\n";
        await view.update(text);
        const before = [...element.children];
        const code = element.querySelector("code").firstChild;
        await view.update(text + "more\\n");
        const same = before.every((block, i) => block === element.children[i]);
        return [same, code.data, code === element.querySelector("code").firstChild];
    }""")
    assert kept == [True, "code\nmore", True]


def test_events_are_read_however_they_are_split(chat: Chat) -> None:
    lines = [": ping", "", "event: created", 'data: {"a": 1}', "", "id: 7", "event: delta", "data:one", "data: two: three", "",
             "data", "", "event: never", "", "data: incomplete"]
    for end, size in itertools.product(["\n", "\r\n", "\r"], [1, 2, 3, 1000]):
        stream = end.join(lines)
        events = chat.page.evaluate(SSE, [stream[i:i + size] for i in range(0, len(stream), size)])
        assert [(event["type"], event["data"], event["id"]) for event in events] == [
            ("created", '{"a": 1}', ""), ("delta", "one\ntwo: three", "7"), ("message", "", "7")]
