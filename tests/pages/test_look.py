"""Light and dark, phone and desk, and the keyboard."""
from collections.abc import Callable
from typing import Any

import pytest

from tests.client import Client
from tests.pages.chat import SQLITE, Chat, expect
from tests.service import Service
from tests.steps import answer
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
WIDE_TABLE = "|column" * 30 + "|\n" + "|-" * 30 + "|\n"
WIDE = "```\n" + "x" * 400 + f"\n```\n\n{WIDE_TABLE}\n" + "y" * 400 + " https://example.org/" + "z" * 300
CONTRAST = """selectors => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (color, under) => {
        if (under) { canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1); }
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = element => {
        for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if (!color.endsWith(", 0)") && color !== "transparent") return color;
        }
        return "white";
    };
    return selectors.map(selector => {
        const element = document.querySelector(selector);
        const [a, b] = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((x, y) => y - x);
        return [selector, Math.round((a + 0.05) / (b + 0.05) * 10) / 10];
    });
}"""


@pytest.mark.parametrize("path", ["/", "chat", "/history", "history"])
def test_a_phone_needs_no_sideways_scrolling(
        new_page: Callable[..., Any], service: Service, client: Client, upstream: Upstream, path: str) -> None:
    stream = client.stream_text(upstream.script(answer(WIDE)).prompt + "p" * 300)
    stream.text()
    path = {"chat": f"/?conversation={stream.conversation_id}", "history": f"/history/{stream.completion_id}"}.get(path, path)
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.goto(service.url + path)
    page.locator("html.js").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_on_a_phone_the_past_conversations_are_a_panel(new_page: Callable[..., Any], service: Service) -> None:
    page = new_page(viewport={"width": 390, "height": 844})
    Chat(page, service.url).open()
    link = page.get_by_role("link", name="New conversation")
    expect(link).to_be_hidden()
    page.get_by_role("button", name="Conversations").click()
    expect(link).to_be_visible()
    page.keyboard.press("Escape")
    expect(link).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(
        new_page: Callable[..., Any], service: Service, client: Client, upstream: Upstream, scheme: str) -> None:
    stream = client.stream_text(upstream.script(answer("A [link](https://example.org) and `code`.\n\n```\nx\n```")).prompt)
    stream.text()
    page = new_page(color_scheme=scheme)
    Chat(page, service.url).open(f"/?conversation={stream.conversation_id}")
    page.locator(".code").wait_for()
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/)[0]")
    assert (float(lightness) > 0.5) == (scheme == "light")
    checked = [".prompt", ".answer p", ".answer p a", ".answer p code", ".code-head", ".actions .button", ".composer-row select",
               ".bar nav a[aria-current]", ".bar nav a:not([aria-current])", ".side h2", ".side li a", ".button.primary"]
    assert [pair for pair in page.evaluate(CONTRAST, checked) if pair[1] < 4.5] == []
    page.goto(service.url + "/history")
    assert [pair for pair in page.evaluate(CONTRAST, [".badge", ".row-text", ".row-facts"]) if pair[1] < 4.5] == []


def test_the_keyboard_reaches_everything_in_order(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(answer("Hello.")).prompt).ended()
    chat.page.reload()
    chat.page.locator("html.js").wait_for()
    expect(chat.box).to_be_focused()
    chat.page.evaluate("document.activeElement.blur(); document.getSelection().removeAllRanges(); scrollTo(0, 0)")
    chat.page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); }")
    name = "(e => e.ariaLabel || (e.labels?.[0] || e).textContent.trim())(document.activeElement)"
    seen = []
    for _ in range(7):
        chat.page.keyboard.press("Tab")
        seen.append(chat.page.evaluate(name))
    assert seen == ["Skip to the content", "llmstream", "Chat", "History", "Review", "Numbers", "New conversation"]
    chat.page.locator(".skip").focus()
    expect(chat.page.locator(".skip")).to_be_in_viewport()
    chat.page.keyboard.press("Enter")
    expect(chat.page.locator("#main")).to_be_focused()
    seen = []
    for _ in range(8):
        chat.page.keyboard.press("Tab")
        seen.append(chat.page.evaluate(name))
    assert seen == ["Copy", "Good answer", "Bad answer", "Regenerate", "Details", "Your prompt", "Model", "Send"]


def test_the_headings_and_landmarks_are_in_order(chat: Chat, upstream: Upstream) -> None:
    chat.send(upstream.script(answer("# Deep\n\nText")).prompt).ended()
    main = chat.page.get_by_role("main")
    levels = main.get_by_role("heading").evaluate_all("found => found.map(heading => heading.tagName)")
    assert levels == ["H1", "H2", "H3", "H4"]
    expect(chat.page.get_by_role("navigation", name="Past conversations")).to_be_visible()
    expect(chat.page.get_by_role("complementary", name="Conversations")).to_be_visible()
