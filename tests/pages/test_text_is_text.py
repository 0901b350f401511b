"""Nothing that a person or a model wrote is ever run, fetched or made into an element of its own."""
from typing import Any

import pytest

from tests.pages.chat import SQLITE, Chat, expect
from tests.steps import answer
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
NASTY = """<script>alert(1)</script> <img src=x onerror=alert(2)> <b>bold</b>

<iframe src="https://evil.example/"></iframe>
<style>body { display: none }</style>

[click](javascript:alert(3)) [data](data:text/html,<script>alert(4)</script>) [relative](/history/1)
<a href="#" onclick="alert(5)">x</a>

![pixel](https://evil.example/pixel.png?secret) [good](https://good.example/path "title")

```html"><script>alert(6)</script>
<script>alert(7)</script>
```

| <svg onload=alert(8)> |
|---|
| <math><mi//xlink:href="data:x,<script>alert(9)</script>"> |
"""
FORBIDDEN = "script, img, iframe, style, svg, math, b, object, form, input, [onerror], [onclick], [onload], [style]"


def test_it_is_shown_as_text_wherever_it_is_shown(chat: Chat, upstream: Upstream) -> None:
    asked: list[str] = []
    dialogs: list[Any] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    chat.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    script = upstream.script(answer(*(NASTY[i:i + 7] for i in range(0, len(NASTY), 7))))
    chat.send(f"{NASTY}{script.prompt}").ended()
    conversation = chat.page.url
    for url in (None, conversation, f"{chat.url}/history", f"{chat.url}/history/{chat.completion_id}"):
        if url:
            chat.page.goto(url)
            chat.page.locator("html.js").wait_for()
        shown = chat.page.locator("main")
        expect(shown).to_contain_text("<script>alert(1)</script>")
        parts = chat.page.locator('[data-part="answer"], [data-part="prompt"], .row-title, .row-text')
        assert parts.count() >= 2
        assert parts.locator(FORBIDDEN).count() == 0
    assert dialogs == []
    assert [url for url in asked if not url.startswith(chat.url)] == [], "nothing is fetched from elsewhere"


def test_links_lead_where_they_say_and_no_further(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(answer(NASTY)).prompt).ended()
    links = chat.answer.get_by_role("link")
    assert links.evaluate_all("links => links.map(link => [link.textContent, link.href, link.rel])") == [
        ['https://evil.example/">', "https://evil.example/%22%3E", "noopener noreferrer nofollow"],  # as it was written
        ["pixel", "https://evil.example/pixel.png?secret", "noopener noreferrer nofollow"],
        ["good", "https://good.example/path", "noopener noreferrer nofollow"],
    ]
    links.last.hover()
    shown = "link => getComputedStyle(link, '::after').content"
    assert links.last.evaluate(shown) == '"good.example"'


def test_markdown_becomes_elements(chat: Chat, upstream: Upstream) -> None:
    text = "# Title\n\nA *b* **c** `d`\n\n1. one\n2. two\n\n```js\nlet x = '<b>';\n```\n\n|a|b|\n|-|-|\n|1|2|\n"
    chat.send(upstream.script(answer(*text)).prompt).ended()
    answered = chat.answer
    expect(answered.locator("h4")).to_have_text("Title")
    expect(answered.locator("em")).to_have_text("b")
    expect(answered.locator("ol li")).to_have_text(["one", "two"])
    expect(answered.locator("pre code")).to_have_text("let x = '<b>';")
    expect(answered.locator("td")).to_have_text(["1", "2"])
    assert answered.get_by_role("heading").all_text_contents() == ["Title"]


def test_right_to_left_text_runs_its_own_way(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(answer("שלום עולם\n\nand English")).prompt).ended()
    direction = "element => getComputedStyle(element).direction"
    expect(chat.answer.locator("p")).to_have_count(2)
    assert [p.evaluate(direction) for p in chat.answer.locator("p").all()] == ["rtl", "ltr"]
