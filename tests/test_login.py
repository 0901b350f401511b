"""Coming in and going out: commands, the form, the cookie, API keys, guessing, and what another site's page cannot do."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.client import Client
from tests.conftest import Launch
from tests.people import ROLES, Browser, Team, add_user, command, password, wait_closed
from tests.service import Database, Service, free_port, one_database
from tests.start.processes import environ, refusal
from tests.steps import answer
from tests.upstream import Upstream

NOW_CLOSED_S = 2.0  # so soon after the first user was made, nobody comes in without a login


@pytest.fixture
def fresh(team: Team) -> Callable[[str], Browser]:
    """Makes a user of this name, logged in; each test has its own, so that none locks another out."""

    def make(name: str, role: str = "user") -> Browser:
        made = team.ana.submit("/admin/users", "/admin", name=name, role=role, password=password(name))
        assert made.status_code == 303, made.text
        return team.browser(name)

    return make


# Commands


@one_database
def test_the_first_user_closes_a_service_that_runs(start: Launch, upstream: Upstream) -> None:
    service = start(WEB_CONCURRENCY=2)
    assert service.database
    assert service.client.stream_text(upstream.script(*answer("open")).prompt).text() == "open"
    assert "no login here yet" in service.client.page("/login").text
    assert service.client.call("POST", "/views", json={"name": "mornings", "query": "reviewed=no"}).status_code == 201
    assert "may come in as admin" in add_user(service.database, "ana", "admin")
    time.sleep(NOW_CLOSED_S)
    assert {service.client.get("/history").status_code for _ in range(8)} == {401}
    ana = Browser(service.url)
    assert ana.log_in("ana").status_code == 303
    assert "mornings" in ana.get("/history").text, "filters of before are the first user's"


@one_database
def test_commands_for_users_and_keys(start: Launch, new_database: Callable[[], Database]) -> None:
    database = new_database()
    add_user(database, "ana", "admin")  # before the service was ever started: the command makes the tables, too
    assert "There is a user ana already" in command(database, "user", "add", "ana", "--password-stdin", typed="x\n", fails=True)
    for alike in ("ANA", "\uff21na"):
        assert "looks like it" in command(database, "user", "add", alike, "--no-password", fails=True)
    assert "12" in command(database, "user", "add", "bob", "--password-stdin", typed="short\n", fails=True)
    command(database, "user", "add", "robot", "--no-password")
    assert "There is no user nobody" in command(database, "key", "add", "k", "--user", "nobody", fails=True)
    shown = re.findall(r"llms_[\w-]{43}$", command(database, "key", "add", "nightly", "--user", "robot", "--scopes", "ask"), re.M)
    (secret,) = shown
    assert "scopes" in command(database, "key", "add", "k", "--user", "robot", "--scopes", "", fails=True), "not all of them"
    beyond = command(database, "key", "add", "k", "--user", "robot", "--scopes", "ask,export", fails=True)
    unknown = command(database, "key", "add", "k", "--user", "robot", "--scopes", "ask,foo", fails=True)
    assert unknown == "Error: scopes: Must be one of: admin, ask, export, judge, read.\n"
    assert "robot is user, and a key may no more than its user: not export." in beyond
    listed = command(database, "key", "list")
    assert "nightly\trobot\task\tgood" in listed and secret not in listed
    service = start(database, WEB_CONCURRENCY=1)
    program = Client(service.url, {"Authorization": f"Bearer {secret}"})
    assert program.get("/history").status_code == 403  # its scope is to ask
    assert program.ask("").status_code == 422
    command(database, "key", "revoke", "1")
    assert program.ask("").status_code == 401
    assert "Nobody can come in as an admin" in command(database, "user", "change", "ana", "--role", "reviewer", "--disable")
    assert command(database, "user", "list") == "ana\treviewer\tdisabled\nrobot\tuser\tenabled\n"
    assert "There is no key 9" in command(database, "key", "revoke", "9", fails=True)
    service.stop()
    assert start(database, WEB_CONCURRENCY=1).client.get("/history").status_code == 401, "nobody is left who may: still closed"


def test_secrets_are_stored_as_hashes(team: Team) -> None:
    stored = str([team.database.rows(f"SELECT * FROM {table}") for table in ("users", "api_keys", "sessions", "audit")])
    cookie = team.ana.session.cookies["session"]
    for secret in (*team.keys.values(), *map(password, team.keys), cookie):
        assert secret not in stored
    kept = team.database.rows("SELECT password_hash FROM users WHERE password_hash IS NOT NULL")
    assert all(row["password_hash"].startswith("scrypt:") for row in kept)


# The form and its cookie


def test_a_login_lasts_until_logout_which_ends_it_on_the_server(fresh: Callable[..., Browser]) -> None:
    browser = fresh("lara")
    kept = dict(browser.session.cookies)
    assert browser.get("/history").status_code == 200
    out = browser.submit("/logout")
    assert (out.status_code, out.headers["Location"]) == (303, "/login")
    thief = Browser(browser.url)
    thief.session.cookies.update(kept)
    assert thief.get("/history").status_code == 302


def test_a_login_takes_the_place_of_the_one_before_in_the_same_browser(fresh: Callable[..., Browser]) -> None:
    browser = fresh("lena")
    earlier = Browser(browser.url)
    earlier.session.cookies.update(dict(browser.session.cookies))
    assert browser.log_in("lena").status_code == 303
    assert (browser.get("/history").status_code, earlier.get("/history").status_code) == (200, 302)


def test_who_is_logged_in_changes_the_password_and_other_browsers_are_out(team: Team, fresh: Callable[..., Browser]) -> None:
    browser, other = fresh("petra"), team.browser("petra")
    wrong = browser.submit("/password", current="not this one", password="a new password of hers")
    assert wrong.status_code == 422 and "Is not your password" in wrong.text
    short = browser.submit("/password", current=password("petra"), password="short")
    assert short.status_code == 422
    assert other.get("/history").status_code == 200
    assert browser.submit("/password", current=password("petra"), password="a new password of hers").status_code == 303
    assert "Your password is changed" in browser.get("/login").text and "is changed" not in browser.get("/login").text
    assert (browser.get("/history").status_code, other.get("/history").status_code) == (200, 302)
    assert Browser(browser.url).log_in("petra").status_code == 401
    assert other.submit("/login", name="petra", password="a new password of hers").status_code == 303
    done = team.database.rows("SELECT action FROM audit WHERE target = 'petra' ORDER BY id DESC LIMIT 4")
    assert "password changed" in {row["action"] for row in done}
    assert team.by("bob").call("POST", "/password", data={"current": "x", "password": "x" * 12}).status_code == 403


def test_logins_that_are_over_are_not_kept(team: Team, fresh: Callable[..., Browser]) -> None:
    fresh("omar")
    past = "datetime('now', '-1 minute')" if team.database.kind == "sqlite" else "now() - interval '1 minute'"
    his = "user_id = (SELECT id FROM users WHERE name = 'omar')"
    assert team.database.execute(f"UPDATE sessions SET expires_at = {past} WHERE {his}") == 1
    fresh("lara2")
    assert team.database.value(f"SELECT count(*) FROM sessions WHERE {his}") == 0


def test_the_cookie_is_for_the_browser_alone(team: Team) -> None:
    flags = Browser(team.service.url).log_in("bob").headers["Set-Cookie"]
    assert "HttpOnly" in flags and "SameSite=Lax" in flags and "Path=/" in flags and "Secure" not in flags
    assert "Expires" not in flags and "Domain" not in flags


@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/history?status=failed&q=a b", "/history?status=failed&q=a%20b"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("\\/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/a\r\nSet-Cookie: b=c", "/"),
        ("/\t/evil.example", "/"),
    ],
)
def test_a_login_leads_to_pages_of_ours_only(team: Team, asked: str, led: str) -> None:
    assert Browser(team.service.url).log_in("bob", next=asked).headers["Location"] == led


def test_a_wrong_password_and_an_unknown_name_look_alike(team: Team) -> None:
    told = []
    for name in ("eve", "nobody"):
        refused = Browser(team.service.url).submit("/login", name=name, password="not the right one")
        told.append((refused.status_code, re.sub(r'(value|nonce)="[^"]*"', "", refused.text)))
    assert told[0] == told[1] and told[0][0] == 401 and "do not belong together" in told[0][1]


@one_database
def test_odd_names_and_passwords_are_just_wrong(team: Team) -> None:
    browser = Browser(team.service.url)
    for odd in ("\0", "a\0b", "' OR 1=1 --", "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "x" * 5000, ""):
        assert browser.submit("/login", name=f"odd{odd}", password=odd).status_code == 401, odd
    assert browser.submit("/login", name="", password="").status_code == 401


def test_guessing_is_slowed_down_by_name_over_all_workers(team: Team, fresh: Callable[..., Browser]) -> None:
    fresh("gwen")
    browser = Browser(team.service.url)
    token = browser.token()

    def guess(number: int) -> tuple[int, str | None]:
        refused = browser.post("/login", csrf_token=token, name="gwen", password=f"guess {number}")
        return refused.status_code, refused.headers.get("Retry-After")

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(guess, range(20)))
    told += [guess(number) for number in range(20, 31)]  # of many at once all may be refused; of these the first are not
    assert {status for status, _ in told} == {401, 429}
    assert sum(status == 401 for status, _ in told) <= 10
    assert all(int(wait or 0) > 0 for status, wait in told if status == 429)
    right = browser.post("/login", csrf_token=token, name="gwen", password=password("gwen"))
    assert right.status_code == 429, "the right one has to wait, too"
    command(team.database, "user", "change", "gwen", "--role", "user")
    assert guess(31)[0] == 429, "only a new password counts anew"
    assert Browser(team.service.url).log_in("rita").status_code == 303, "others come in"
    forgotten = {"password": "a password that ana has set"}
    assert team.ana.submit(f"/admin/users/{team.user_id('gwen')}", "/admin", **forgotten).status_code == 303
    assert "gwen has a new password. Browsers have to log in again." in team.ana.get("/admin").text
    assert browser.post("/login", csrf_token=token, name="gwen", **forgotten).status_code == 303
    command(team.database, "user", "change", "gwen", "--password-stdin", typed="typed into the command\n")
    again = Browser(team.service.url)
    assert again.submit("/login", name="gwen", **forgotten).status_code == 401
    assert again.submit("/login", name="gwen", password="typed into the command").status_code == 303


def test_right_logins_have_a_limit_too(team: Team, fresh: Callable[..., Browser]) -> None:
    fresh("nora")
    team.database.execute(
        "INSERT INTO audit (at, actor, action, target) "
        + " UNION ALL ".join(["SELECT (SELECT max(at) FROM audit), 'nora', 'login', 'nora'"] * 60)
    )
    assert Browser(team.service.url).log_in("nora").status_code == 429
    assert Browser(team.service.url).log_in("rita").status_code == 303, "others come in"


@pytest.fixture
def proxied(start: Launch, new_database: Callable[[], Database]) -> Service:
    """Behind a proxy whose word on addresses counts; ana and rita may log in."""
    service = start(new_database(), LLMSTREAM_PROXIES="127.0.0.0/8", LLMSTREAM_HOSTS="llm.example.com", WEB_CONCURRENCY=1)
    assert service.database
    for name in ("ana", "rita"):
        add_user(service.database, name, ROLES[name])
    wait_closed(service)
    return service


def misses(service: Service, address: str, names: list[str]) -> None:
    """Wrong passwords for these names, from this address, a moment ago."""
    now = "(SELECT max(created_at) FROM users)"
    rows = [f"SELECT {now}, '{name}', 'login failed', '{name}', '{address}'" for name in names]
    assert service.database
    service.database.execute("INSERT INTO audit (at, actor, action, target, remote_addr) " + " UNION ALL ".join(rows))


def log_in_from(service: Service, address: str, name: str) -> requests.Response:
    """With the right password, by way of the proxy that says so."""
    browser = Browser(service.url)
    by_proxy = {"Host": "llm.example.com", "X-Forwarded-Proto": "https", "Origin": "https://llm.example.com"}
    browser.session.headers.update(by_proxy | {"X-Forwarded-For": address})
    page = browser.get("/login")
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    cookie = page.headers["Set-Cookie"]
    assert token and "Secure" in cookie and "HttpOnly" in cookie
    sent = {"Cookie": cookie.partition(";")[0]}  # a browser sends a Secure cookie to https only
    return browser.post("/login", sent, csrf_token=token[1], name=name, password=password(name))


@one_database
def test_guessing_is_slowed_down_by_address_which_only_our_proxy_tells(proxied: Service) -> None:
    misses(proxied, "192.0.2.7", [f"x{i}" for i in range(50)])
    for address, status in (("192.0.2.7", 429), ("192.0.2.8, 192.0.2.7", 429), ("192.0.2.7, 192.0.2.8", 303)):
        came = log_in_from(proxied, address, "ana")
        assert came.status_code == status, address
    assert "Secure" in came.headers["Set-Cookie"]
    assert proxied.database and proxied.database.value("SELECT remote_addr FROM sessions") == "192.0.2.8"
    misses(proxied, "2001:db8:1:2::/64", [f"x{i}" for i in range(50)])
    for address in ("2001:db8:1:2:3::4", "[2001:db8:1:2:3::5]:443", "[2001:db8:1:2::6]"):
        assert log_in_from(proxied, address, "ana").status_code == 429, "as its network"
    assert log_in_from(proxied, "2001:db8:1:3::1", "ana").status_code == 303


def test_who_guesses_elsewhere_shuts_nobody_out_where_they_came_in_before(proxied: Service) -> None:
    assert log_in_from(proxied, "192.0.2.8", "ana").status_code == 303
    misses(proxied, "192.0.2.9", ["ana"] * 10)
    misses(proxied, "192.0.2.8", ["ana"] * 9)
    assert log_in_from(proxied, "192.0.2.8", "ana").status_code == 303
    assert log_in_from(proxied, "192.0.2.7", "ana").status_code == 429, "from anywhere else"
    assert log_in_from(proxied, "192.0.2.8", "rita").status_code == 303
    misses(proxied, "192.0.2.8", ["ana"])
    assert log_in_from(proxied, "192.0.2.8:4711", "ana").status_code == 429, "guesses from there count"


@one_database
def test_an_address_from_which_a_name_came_in_long_ago_is_as_any_other(proxied: Service) -> None:
    assert log_in_from(proxied, "192.0.2.8", "ana").status_code == 303
    misses(proxied, "192.0.2.9", ["ana"] * 10)
    assert proxied.database
    assert proxied.database.execute("UPDATE sessions SET expires_at = datetime('now', '-1 minute')")
    assert log_in_from(proxied, "192.0.2.8", "ana").status_code == 429


def test_what_an_unknown_proxy_forwards_does_not_count(team: Team) -> None:
    forged = {
        "X-Forwarded-For": "192.0.2.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=192.0.2.9",
    }
    assert team.by("bob", **forged).get("/history").status_code == 200
    browser = Browser(team.service.url)
    browser.session.headers.update(forged)
    assert "Secure" not in browser.log_in("bob").headers["Set-Cookie"]
    assert team.database.value("SELECT count(*) FROM sessions WHERE remote_addr = '192.0.2.9'") == 0


# Other sites' pages


def test_a_form_needs_our_token(team: Team) -> None:
    before = team.database.value("SELECT count(*) FROM completions")
    for browser, path in (
        (Browser(team.service.url), "/login"),
        (team.browser("bob"), "/"),
        (team.browser("bob"), "/logout"),
        (team.browser("bob"), "/views"),
        (team.browser("ana"), "/admin/users"),
        (team.browser("ana"), "/delete"),
    ):
        for fields in ({}, {"csrf_token": "wrong"}, {"csrf_token": Browser(team.service.url).token()}):
            refused = browser.post(path, prompt="hello", name="bob", password=password("bob"), **fields)
            assert refused.status_code == 400 and "Nothing was changed" in refused.text, path
    assert team.database.value("SELECT count(*) FROM completions") == before


def test_json_with_a_cookie_needs_to_come_from_our_page(team: Team, upstream: Upstream) -> None:
    script = upstream.script(*answer("yes"))
    ask = team.browser("bob").session.post
    for headers, status in (
        ({}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": team.service.url}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ):
        sent = ask(team.service.url + "/stream", json={"prompt": script.prompt}, headers={"Accept": "text/plain", **headers})
        assert sent.status_code == status, headers
    assert team.by("bob").stream_text(script.prompt).text() == "yes"  # a key is sent by programs only


# Keys and users


def test_a_key_may_what_its_scopes_say_until_it_ends(team: Team) -> None:
    key_id, secret = team.key("rita", scopes=["read", "judge"], days="1")
    program = team.with_key(secret)
    assert program.get("/history").status_code == 200
    assert program.get("/review", headers={"Accept": "text/html"}).status_code == 200
    assert program.ask("hello").status_code == 403 and program.get("/history.csv").status_code == 403
    moved = "datetime('now', '-1 minute')" if team.database.kind == "sqlite" else "now() - interval '1 minute'"
    team.database.execute(f"UPDATE api_keys SET expires_at = {moved} WHERE id = :id", id=key_id)
    assert program.get("/history").status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "Bearer llms_" + "a" * 43,
        "Bearer ' OR 1=1 --",
        "Bearer \xff\xfe",
        "Bearer",
        "Bearer  ",
        "Basic YW5hOmE=",
        "llms_",
        "bearer x; x=1",
    ],
)
def test_a_wrong_key_is_refused_even_with_a_good_cookie(team: Team, header: str) -> None:
    refused = Client(team.service.url, {"Authorization": header}).get("/history")
    assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
    if header.startswith("Bearer llms_"):
        with_cookie = team.browser("bob").session.get(
            team.service.url + "/history", headers={"Authorization": header}, allow_redirects=False
        )
        assert with_cookie.status_code in (302, 401)


def test_who_is_disabled_is_out_at_once_and_can_be_let_in_again(team: Team, fresh: Callable[..., Browser]) -> None:
    browser = fresh("dora")
    program = team.with_key(team.key("dora")[1])
    assert program.get("/history").status_code == 200
    path = f"/admin/users/{team.user_id('dora')}"
    assert team.ana.submit(path, "/admin", enabled="no").status_code == 303
    assert browser.get("/history").status_code == 302 and program.get("/history").status_code == 401
    assert Browser(team.service.url).log_in("dora").status_code == 401
    assert team.ana.submit(path, "/admin", enabled="yes").status_code == 303
    assert browser.get("/history").status_code == 302 and program.get("/history").status_code == 200


def test_a_new_role_or_password_ends_the_sessions(team: Team, fresh: Callable[..., Browser]) -> None:
    browser, path = fresh("nina"), f"/admin/users/{team.user_id('nina')}"
    for change in ({"role": "reviewer"}, {"password": "another long password"}):
        assert team.ana.submit(path, "/admin", **change).status_code == 303
        assert browser.get("/history").status_code == 302
        browser.submit("/login", name="nina", password=change.get("password", password("nina")))
    assert browser.get("/review").status_code == 200


def test_an_admin_cannot_shut_himself_out_by_accident(team: Team) -> None:
    for change in ({"role": "user"}, {"enabled": "no"}):
        assert team.ana.submit(f"/admin/users/{team.user_id('ana')}", "/admin", **change).status_code == 422
    assert team.ana.get("/admin").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": " x"},
        {"name": "local"},
        {"name": "Local"},
        {"name": "command line"},
        {"name": "ada\u3164"},
        {"name": "a\u202eb"},
        {"name": "x" * 101},
        {"role": "king"},
        {"password": "short"},
        {"name": "bob"},
        {"more": "x"},
    ],
)
def test_a_user_that_cannot_be_is_refused(team: Team, fields: dict[str, Any]) -> None:
    wanted = {"name": "new", "role": "user", "password": "long enough for all"} | fields
    assert team.ana.submit("/admin/users", "/admin", **wanted).status_code == 422
    assert not team.database.rows("SELECT * FROM users WHERE name = 'new'")


def test_a_header_that_is_no_ascii_is_nobodys(team: Team) -> None:
    for header in (b"Basic \xff", b"Bearer \xff", b"Basic", b"\xff"):
        answered = requests.get(team.service.url + "/history", headers={"Authorization": header}, timeout=10)
        assert answered.status_code == 401, header


# Where it listens


@one_database
def test_other_machines_are_let_in_only_with_a_login(start: Launch, new_database: Callable[[], Database]) -> None:
    database = new_database()
    settings = {"DATABASE_URL": database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "any"}
    said = refusal(environ=environ(HOST="0.0.0.0", PORT=free_port(), **settings))[-1]
    assert "user add" in said and "--role admin" in said and "HOST=0.0.0.0" in said
    add_user(database, "ana", "admin")
    service = start(database, HOST="0.0.0.0", WEB_CONCURRENCY=1)
    assert service.client.get("/history").status_code == 401
    assert service.client.get("/history", headers={"Host": "evil.example"}).status_code == 403
    assert Browser(service.url).log_in("ana").status_code == 303


# What is written down


def test_no_secret_is_in_a_log_a_page_or_an_error(team: Team, upstream: Upstream) -> None:
    script = upstream.script(*answer("said"))
    team.by("bob").stream_text(script.prompt).text()
    told = [team.ana.get(path).text for path in ("/", "/history", "/admin", "/login", "/no/such", "/history?status=odd")]
    told += [
        team.service.client.get("/history", headers={"Authorization": "Bearer " + secret[:-1]}).text
        for secret in team.keys.values()
    ]
    said = team.service.log_path.read_text()
    for secret in (*team.keys.values(), *map(password, team.keys), "scripted-key", team.ana.session.cookies["session"]):
        assert secret not in said and not any(secret in text for text in told)
    assert script.prompt not in said
