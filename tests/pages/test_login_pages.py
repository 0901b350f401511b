"""The pages with a login: as the owner of a conversation, as a reviewer, as an admin, and as a stranger who may see nothing."""
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client import eventually
from tests.pages.chat import SQLITE, Chat, expect
from tests.pages.test_access import LOOKS, check, look_at
from tests.people import Browser, Team, password
from tests.steps import answer
from tests.upstream import Upstream

pytestmark = pytest.mark.parametrize(*SQLITE, indirect=True)


@pytest.fixture
def as_(team: Team, new_page: Callable[..., Any]) -> Callable[..., Any]:
    """A page in which this person has logged in, by the form."""
    def log_in(name: str, path: str = "/", **options: Any) -> Any:
        page = new_page(**options)
        page.goto(team.service.url + path)
        assert "/login" in page.url
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password(name))
        page.keyboard.press("Enter")
        page.wait_for_url(team.service.url + path)
        return page
    return log_in


def test_the_owner_asks_judges_and_finds_but_is_offered_no_more(
        team: Team, upstream: Upstream, as_: Callable[..., Any]) -> None:
    page = as_("bob")
    chat = Chat(page, team.service.url)
    chat.send(upstream.script(*answer("for bob")).prompt).ended()
    expect(chat.answer).to_contain_text("for bob")
    with page.expect_response(lambda response: "/reviews" in response.url) as thumb:
        chat.click("Good answer")
    assert thumb.value.status in (200, 201, 303)
    expect(chat.turn().get_by_role("button", name="Good answer")).to_have_attribute("aria-pressed", "true")
    chat.click("Regenerate")
    chat.ended()
    completion_id = chat.completion_id
    links = page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()
    assert links == ["Chat", "History", "bob"]
    page.goto(f"{team.service.url}/history/{completion_id}")
    expect(page.get_by_role("heading", name="Judgements")).to_be_visible()
    assert page.locator('form[action$="/reviews"], form[action$="/tags"], a[href^="/delete"], a[href^="/export"]').count() == 0
    page.get_by_role("button", name="Run again").click()
    page.wait_for_url("**/compare/*")
    page.goto(team.service.url + "/history?status=completed")
    for other in ("Review", "Numbers", "Export", "Delete"):
        assert page.get_by_role("link", name=other).count() == 0
    page.locator("summary", has_text="Save this view").click()
    page.get_by_label("Save these filters as").fill("mine")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("link", name="mine", exact=True)).to_be_visible()


def test_who_logs_in_next_does_not_see_what_was_typed_before(team: Team, upstream: Upstream, as_: Callable[..., Any]) -> None:
    stream = team.by("eve").stream_text(upstream.script(*answer("to be judged")).prompt)
    stream.text()
    shown = f"/history/{stream.completion_id}"
    page = as_("rita", shown)
    note = page.get_by_label("Note", exact=True)
    page.locator("summary", has_text="Note").click()
    note.fill("only for me")
    page.reload()
    expect(note).to_have_value("only for me")
    page.goto(team.service.url + "/login")
    page.goto(team.service.url + shown)
    expect(note).to_have_value("only for me")
    page.context.clear_cookies()
    page.keyboard.press("g")
    expect(page.get_by_role("alert")).to_contain_text("Your login has ended.")
    expect(note).to_have_value("only for me")
    page.goto(team.service.url + shown)
    page.get_by_label("Name").fill("ana")
    page.get_by_label("Password").fill(password("ana"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("You judge as ana")).to_be_visible()
    expect(note).to_have_value("")


def test_who_is_logged_out_elsewhere_is_told_so_and_led_to_the_login(team: Team, as_: Callable[..., Any]) -> None:
    page = as_("bob")
    page.context.clear_cookies()
    page.locator("#prompt").fill("not lost yet")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("You are no longer logged in.")
    page.get_by_role("button", name="Edit the prompt").click()
    expect(page.locator("#prompt")).to_have_value("not lost yet")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/login?next=*")


def test_a_page_does_not_ask_for_who_logged_in_after_its_owner(team: Team, as_: Callable[..., Any]) -> None:
    page = as_("bob")
    other = page.context.new_page()
    other.goto(team.service.url + "/login")
    other.get_by_role("button", name="Log out").click()
    other.get_by_label("Name").fill("ana")
    other.get_by_label("Password").fill(password("ana"))
    other.keyboard.press("Enter")
    other.wait_for_url(team.service.url + "/")
    page.locator("#prompt").fill("from bob's page")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Load the page again")
    assert team.database.value("SELECT count(*) FROM completions WHERE prompt = 'from bob''s page'") == 0


def test_no_name_that_a_stranger_tries_makes_the_trail_unreadable(team: Team, as_: Callable[..., Any]) -> None:
    Browser(team.service.url).submit("/login", name="\u00fc" * 300, password="any at all")
    page = as_("ana", "/admin", viewport={"width": 1200, "height": 800})
    box = page.locator(".trail")
    expect(box).to_contain_text("\u00fc" * 100)
    assert box.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_the_owner_without_a_script(team: Team, upstream: Upstream, as_: Callable[..., Any]) -> None:
    page = as_("bob", java_script_enabled=False)
    page.locator("#prompt").fill(upstream.script(*answer("plain")).prompt)
    page.get_by_role("button", name="Send").click()
    expect(page.locator('[data-part="answer"]').last).to_contain_text("plain")
    page.get_by_role("button", name="Good answer").last.click()
    expect(page.get_by_role("button", name="Good answer").last).to_have_attribute("aria-pressed", "true")
    page.goto(team.service.url + "/login")
    page.get_by_role("button", name="Log out").click()
    page.goto(team.service.url + "/history")
    assert "/login" in page.url


def test_a_reviewer_judges_others_answers_by_keyboard_and_exports(
        team: Team, upstream: Upstream, as_: Callable[..., Any], tmp_path: Path) -> None:
    stream = team.by("eve").stream_text(upstream.script(*answer("to be judged")).prompt)
    stream.text()
    team.by("rita").call("PUT", f"/history/{stream.completion_id}/tags/morning")
    page = as_("rita", "/review?tag=morning")
    expect(page.get_by_text("You judge as rita")).to_be_visible()
    page.locator("body").press("g")

    def judged() -> Any:
        return team.database.completion(stream.completion_id)["rating"] == "good"
    eventually(judged, 5, "the judgement")
    row = team.database.rows("SELECT * FROM reviews WHERE completion_id = :id AND role = 'reviewer'", id=stream.completion_id)
    assert [review["reviewer"] for review in row] == ["rita"]
    page.goto(f"{team.service.url}/history/{stream.completion_id}")
    page.get_by_label("A tag to add").fill("second")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".tag-chip", has_text="second")).to_be_visible()
    page.goto(team.service.url + "/history?tag=morning")
    assert page.get_by_role("link", name="Delete").count() == 0
    page.get_by_role("link", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.endswith(".csv")
    command = page.locator("code", has_text="curl").text_content()
    ran = subprocess.run(["sh"], input=command, env=os.environ | {"API_KEY": team.keys["rita"]}, cwd=tmp_path, text=True)
    assert ran.returncode == 0 and f'"id":{stream.completion_id},' in (tmp_path / "history.jsonl").read_text()


def test_an_admin_makes_users_and_keys_and_deletes(team: Team, upstream: Upstream, as_: Callable[..., Any]) -> None:
    stream = team.by("eve").stream_text(upstream.script(*answer("to be deleted")).prompt)
    stream.text()
    page = as_("ana")
    page.get_by_role("link", name="ana").click()
    page.get_by_role("link", name="Users, keys").click()
    adding = page.locator("form", has=page.get_by_role("heading", name="Add a user"))
    adding.get_by_label("Name").fill("zoe")
    adding.get_by_role("button", name="Add").click()
    expect(page.get_by_role("rowheader", name="zoe")).to_be_visible()
    making = page.locator("form", has=page.get_by_role("heading", name="Make a key"))
    making.get_by_label("What it is for").fill("a script")
    making.get_by_label("User").select_option("zoe")
    making.get_by_label("read").check()
    making.get_by_role("button", name="Make").click()
    secret = page.locator(".secret").inner_text()
    assert look_at(page) == [], "the answer to a form is a page, too"
    assert team.with_key(secret).get("/history").json()["data"] == []
    made = page.get_by_role("region", name="API keys").get_by_role("row", name="a script")
    made.get_by_role("button", name="Revoke").click()
    expect(made).to_contain_text("revoked")
    assert secret not in page.content() and team.with_key(secret).get("/history").status_code == 401
    page.goto(f"{team.service.url}/delete?conversation_id={stream.conversation_id}")
    page.get_by_label("To confirm").fill("1")
    page.get_by_role("button", name="Delete 1 answer").click()
    expect(page.get_by_text("Done: 1 answer is deleted")).to_be_visible()


def test_a_stranger_sees_nothing_but_the_door(team: Team, upstream: Upstream, new_page: Callable[..., Any]) -> None:
    stream = team.by("eve").stream_text(upstream.script(*answer("a secret")).prompt)
    stream.text()
    page = new_page()
    for path in ("/", "/history", f"/history/{stream.completion_id}", f"/?conversation={stream.conversation_id}", "/review",
                 "/export", "/delete", "/admin", "/no/such/page"):
        page.goto(team.service.url + path)
        expect(page.get_by_role("heading", name="Log in")).to_be_visible()
        assert "secret" not in page.content() and page.get_by_role("navigation", name="Pages").get_by_role("link").count() == 0
    page.get_by_label("Name").fill("eve")
    page.get_by_label("Password").fill("not the right one")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    expect(page.get_by_label("Name")).to_have_value("eve")
    assert look_at(page) == []


def test_another_users_conversation_is_not_there(team: Team, upstream: Upstream, as_: Callable[..., Any]) -> None:
    stream = team.by("eve").stream_text(upstream.script(*answer("a secret")).prompt)
    stream.text()
    page = as_("bob", "/history")
    for path in (f"/history/{stream.completion_id}", f"/?conversation={stream.conversation_id}"):
        assert page.goto(team.service.url + path).status == 404
        assert "secret" not in page.content()


@LOOKS
def test_the_pages_of_the_login_stand_in_nobodys_way(
        team: Team, as_: Callable[..., Any], new_page: Callable[..., Any], look: dict[str, Any]) -> None:
    assert check(new_page(**look), team.service.url + "/login") == []
    page = as_("ana", **look)
    for path in ("/login", "/admin", "/history", "/review"):
        assert check(page, team.service.url + path) == [], path
