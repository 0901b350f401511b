"""Nothing stands in the way of people who see, hear or move differently: axe-core finds no serious fault on any page.

The pages are those of the URL map, so that a new one cannot be forgotten. Each is seen twice: light at a desk by all rules,
dark on a phone by those of colours and width.
"""
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmstream import create_app
from tests.exchange import Gate
from tests.pages.chat import SQLITE
from tests.service import ROOT, Service
from tests.steps import delta, done, finish, wait_for
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)
AXE = (ROOT / "tests/vendor/axe.js").read_text()
RUN = """async rules => {
    const options = rules ? { runOnly: rules } : { rules: { "target-size": { enabled: true } } };  // left out by default
    const { violations } = await axe.run(document, { resultTypes: ["violations"], ...options });
    return violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
        .flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target}: ${failureSummary}`));
}"""
LIGHT_DESK = {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}}
DARK_PHONE = {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
OF_COLOURS_AND_WIDTH = ["color-contrast", "link-in-text-block", "scrollable-region-focusable"]
LOOKS = pytest.mark.parametrize("look", [LIGHT_DESK, DARK_PHONE], ids=["light at a desk", "dark on a phone"])
# What the URL map does not tell: pages with a state, and errors.
STATES = ["/?conversation={talk}", "/history?status=failed&q=the&tag=tone", "/history?q=nothingsaysthis&rating=bad",
          "/history?before=1", "/history?status=nonsense", "/nowhere", "/history/{live}",
          "/review?status=completed", "/stats?status=failed",
          "/export?status=failed", "/delete?status=failed"]


@LOOKS
def test_no_page_has_a_serious_fault(
        new_page: Callable[..., Any], shown: Service, upstream: Upstream, look: dict[str, Any]) -> None:
    gate = Gate()
    live = shown.client.stream_text(upstream.script(delta("so far"), wait_for(gate), finish(), done()).prompt)
    page = new_page(**look)
    faults = {address: seen for address in addresses(shown, live.completion_id) if (seen := check(page, shown.url + address))}
    gate.open()
    assert faults == {}


@LOOKS
def test_nothing_that_opens_has_a_serious_fault(new_page: Callable[..., Any], shown: Service, look: dict[str, Any]) -> None:
    page = new_page(**look)
    page.goto(shown.url + "/history?status=failed&q=the")
    faults = []
    for panel in page.locator("summary").all():
        panel.click()
        faults += look_at(page)
        page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    assert faults + look_at(page) == []


def addresses(service: Service, live: int) -> list[str]:
    """Every address that answers with a page, by the URL map and the states above."""
    assert service.database
    row = service.database.rows("SELECT id, conversation_id FROM completions WHERE regenerated_from IS NOT NULL LIMIT 1")[0]
    names = {"talk": row["conversation_id"], "live": live, "completion_id": row["id"], "other_id": row["id"] - 1}
    url_map = create_app({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"}).url_map
    rules = [re.sub(r"<any\((\w+).*?>", r"\1", rule.rule) for rule in url_map.iter_rules() if "GET" in (rule.methods or ())]
    patterns = [re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule) for rule in rules]
    patterns = [pattern for pattern in patterns if not pattern.startswith(("/static", "/stream"))]
    found = [pattern.format(**names) for pattern in [*patterns, *STATES]]
    pages = [address for address in dict.fromkeys(found) if "html" in service.client.page(address).headers["Content-Type"]]
    assert {"/", "/history", f"/history/{row['id']}", f"/history/{live}", "/nowhere"} <= set(pages)
    return pages


def check(page: Any, address: str) -> list[str]:
    page.goto(address)
    page.locator("html.js, .error-page").first.wait_for(state="attached")
    return look_at(page)


def look_at(page: Any) -> list[str]:
    """Run axe-core through the debugger (the page's own policy lets no foreign script in), and see that nothing is too wide."""
    page.evaluate(AXE)
    is_light = page.evaluate("matchMedia('(prefers-color-scheme: light)').matches")  # where every rule is tried
    is_wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return page.evaluate(RUN, None if is_light else OF_COLOURS_AND_WIDTH) + ["it scrolls sideways"] * is_wide
