"""A key that is revoked, and a user who is disabled, are out at once: their streams are cut, and their answers end."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tests.client import Client, eventually
from tests.conftest import Launch
from tests.contract import delivery_of, endings, is_problem, row_is
from tests.exchange import Gate
from tests.people import Team
from tests.steps import answer, delta, held, wait_for
from tests.upstream import Upstream

REVOKED = endings()["revoked"]
AT_ONCE_S = 3.0  # each worker looks every second


def test_a_revoked_keys_streams_end_and_others_go_on(team: Team, upstream: Upstream) -> None:
    key_id, secret = team.key("bob")
    program = team.with_key(secret)
    gate = Gate()
    script = upstream.script(delta("as far "), delta("as this"), wait_for(Gate()))
    text, other = (
        program.stream_text(script.prompt),
        team.by("eve").stream_text(upstream.script(*held(gate, "on ", "and on")).prompt),
    )
    text.read_until("as this")
    events = program.reattach_events(text.completion_id)
    events.next()
    asked = time.monotonic()
    assert team.ana.submit(f"/admin/keys/{key_id}/revoke", "/admin").status_code == 303
    assert text.rest() == b"as far as this" and text.cut
    events.rest()
    assert time.monotonic() - asked < AT_ONCE_S
    assert not any(event.name == "completed" for event in events.events)
    script.call().wait_closed(AT_ONCE_S)
    row_is(team.by("ana"), text.completion_id, REVOKED, "as far as this")
    assert delivery_of(team.by("ana"), text.completion_id)[0] == "cut", "it was we who let go"
    assert program.get("/history").status_code == 401
    gate.open()
    assert other.text() == "on and on"


def test_a_revoked_key_that_waits_for_its_first_text_is_told_so(team: Team, upstream: Upstream) -> None:
    key_id, secret = team.key("bob")
    script = upstream.script(wait_for(Gate()))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(team.with_key(secret).ask, script.prompt)
        script.call()
        team.ana.submit(f"/admin/keys/{key_id}/revoke", "/admin")
        is_problem(waiting.result(AT_ONCE_S), 401)


def test_who_loses_a_role_reads_no_further_with_a_key(team: Team, upstream: Upstream) -> None:
    name = f"demoted{time.monotonic_ns()}"
    team.ana.submit("/admin/users", "/admin", name=name, role="reviewer")
    reviewer, gate = team.with_key(team.key(name)[1]), Gate()
    stream = team.by("bob").stream_text(upstream.script(*held(gate, "for bob", " alone")).prompt)
    read = reviewer.reattach_text(stream.completion_id)
    read.read_until("for bob")
    asked = time.monotonic()
    assert team.ana.submit(f"/admin/users/{team.user_id(name)}", "/admin", role="user").status_code == 303
    assert read.rest() == b"for bob" and read.cut and time.monotonic() - asked < AT_ONCE_S
    gate.open()
    assert stream.text() == "for bob alone", "who asked goes on"


def test_a_disabled_users_streams_end(team: Team, upstream: Upstream) -> None:
    name = f"gone{time.monotonic_ns()}"
    team.ana.submit("/admin/users", "/admin", name=name, role="user")
    program = team.with_key(team.key(name)[1])
    stream = program.stream_text(upstream.script(delta("so far"), wait_for(Gate())).prompt)
    stream.read_until("so far")
    asked = time.monotonic()
    team.ana.submit(f"/admin/users/{team.user_id(name)}", "/admin", enabled="no")
    assert stream.rest() == b"so far" and stream.cut and time.monotonic() - asked < AT_ONCE_S
    row_is(team.by("ana"), stream.completion_id, REVOKED, "so far")


def test_a_logout_ends_what_this_browser_reads_but_not_the_answer(team: Team, upstream: Upstream) -> None:
    browser, gate = team.browser("bob"), Gate()
    cookie = {"Cookie": f"session={browser.session.cookies['session']}", "Origin": team.service.url}
    stream = Client(team.service.url, cookie).stream_text(upstream.script(*held(gate, "one, ", "two")).prompt)
    stream.read_until("one, ")
    browser.submit("/logout")
    assert stream.rest() == b"one, " and stream.cut
    gate.open()
    assert team.by("bob").finished(stream.completion_id)["response"] == "one, two"


def test_a_reader_of_somebody_elses_stream_is_cut_alone(team: Team, upstream: Upstream) -> None:
    gate = Gate()
    written = team.by("eve").stream_text(upstream.script(*held(gate, "a", "b")).prompt)
    key_id, secret = team.key("rita")
    reading = team.with_key(secret).reattach_text(written.completion_id)
    reading.read_until("a")
    team.ana.submit(f"/admin/keys/{key_id}/revoke", "/admin")
    reading.rest()
    assert reading.cut
    gate.open()
    assert written.text() == "ab"


def test_a_revoked_export_is_cut(team: Team) -> None:
    big = "x" * 900_000
    row = team.database.rows("SELECT * FROM completions ORDER BY id LIMIT 1")[0]
    names = [name for name in row if name not in ("id", "idempotency_key", "response", "owner")]
    columns, values = ", ".join(names), ", ".join(names)
    for number in range(24):
        team.database.execute(
            f"INSERT INTO completions (owner, idempotency_key, response, {columns}) "
            f"SELECT 'big', :key, :big, {values} FROM completions WHERE id = :id",
            key=f"big{number}",
            big=big,
            id=row["id"],
        )
    key_id, secret = team.key("rita")
    export = team.with_key(secret).get("/history.jsonl?owner=big", stream=True)
    assert export.status_code == 200 and export.raw.read(1000)
    team.ana.submit(f"/admin/keys/{key_id}/revoke", "/admin")
    time.sleep(AT_ONCE_S)
    with pytest.raises(Exception, match=r"broken|incomplete|Connection|IncompleteRead"):
        while export.raw.read(1 << 20):
            pass
        raise AssertionError("all of it came")
    assert team.database.execute("DELETE FROM completions WHERE owner = 'big'") == 24


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
def test_a_deletion_ends_with_the_key_that_began_it(team: Team, upstream: Upstream) -> None:
    """Held up by a row that another transaction has locked; when that lets go, nobody goes on deleting."""
    stays = team.by("eve").stream_text(upstream.script(answer("stays")).prompt)
    assert stays.text() == "stays"
    key_id, secret = team.key("ana")
    path, ended = "/delete?owner=eve", "SELECT count(*) FROM audit WHERE action = 'delete ended early'"
    count = team.database.value("SELECT count(*) FROM completions WHERE owner = 'eve' AND status <> 'in_progress'")
    with team.database.engine.connect() as other:
        other.execute(sa.text("SELECT id FROM completions WHERE owner = 'eve' FOR UPDATE"))
        begun = team.with_key(secret).call("POST", path, data={"shown": count, "typed": count}, stream=True)
        assert begun.status_code == 200
        team.ana.submit(f"/admin/keys/{key_id}/revoke", "/admin")
        eventually(lambda: team.database.value(ended), AT_ONCE_S + 3, "the end of the deletion, after a try that is under way")
    assert team.by("eve").history(stays.completion_id)["response"] == "stays"


def test_an_expired_key_ends_its_streams_on_another_instance_too(team: Team, start: Launch, upstream: Upstream) -> None:
    twin = start(team.database, WEB_CONCURRENCY=1, LLMSTREAM_REQUESTS_PER_MINUTE=100_000, LLMSTREAM_CALLS_PER_MINUTE=10**6)
    key_id, secret = team.key("bob", days="1")
    stream = Client(twin.url, {"Authorization": f"Bearer {secret}"}).stream_text(
        upstream.script(delta("x"), wait_for(Gate())).prompt
    )
    stream.read_until("x")
    used = "SELECT last_used_at FROM api_keys WHERE id = :id"
    eventually(lambda: team.database.value(used, id=key_id), 5, "the note that the key was used")
    past = "datetime('now', '-1 minute')" if team.database.kind == "sqlite" else "now() - interval '1 minute'"
    team.database.execute(f"UPDATE api_keys SET expires_at = {past} WHERE id = :id", id=key_id)
    assert stream.rest() == b"x" and stream.cut
    row_is(team.by("ana"), stream.completion_id, REVOKED, "x")
