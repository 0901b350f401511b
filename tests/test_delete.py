"""Deleting reaches everything that belongs to an answer, asks first, and harms nothing that is being written."""
import html
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from llmstream import create_app
from tests.client import Client, EventStream, eventually
from tests.contract import is_problem
from tests.exchange import Gate
from tests.service import Database
from tests.steps import answer, held
from tests.test_conversation import told, turn
from tests.upstream import Upstream


def ask(client: Client, upstream: Upstream, word: str = "word", **fields: Any) -> int:
    """A completed answer with that word in it; its id."""
    stream = client.stream_text(upstream.script(answer(f"An answer with the {word}.")).prompt, **fields)
    stream.text()
    return stream.completion_id


def writing(client: Client, upstream: Upstream, gate: Gate, **fields: Any) -> EventStream:
    """An answer that goes on once the gate is open."""
    stream = client.stream_events(upstream.script(*held(gate, "so far", " and on")).prompt, **fields)
    stream.until("delta")
    return stream


def judge(client: Client, completion_id: int) -> None:
    said = {"rating": "bad", "correction": "Right."}
    assert client.call("POST", f"/history/{completion_id}/reviews", json=said).status_code == 201
    assert client.call("PUT", f"/history/{completion_id}/tags/odd").status_code == 201


def traces(database: Database, completion_id: int) -> dict[str, int]:
    """How many rows each table has of this answer."""
    tables = {"completions": "id", "chunks": "completion_id", "reviews": "completion_id", "tags": "completion_id",
              "tag_changes": "completion_id", "completions_fts": "rowid" if database.kind == "sqlite" else "completion_id"}
    return {table: database.value(f"SELECT count(*) FROM {table} WHERE {key} = :id", id=completion_id)
            for table, key in tables.items()}


def test_one_answer_goes_with_all_that_belongs_to_it(client: Client, database: Database, upstream: Upstream) -> None:
    kept = ask(client, upstream)
    gone = ask(client, upstream, "zyzzyva", conversation_id=client.history(kept)["conversation_id"])
    again = client.stream_text(regenerate=gone)
    again.text()
    judge(client, gone)
    eventually(lambda: client.history(q="zyzzyva")["data"], 10, "indexing")
    assert all(count == (0 if table == "chunks" else 1) for table, count in traces(database, gone).items())
    assert client.call("DELETE", f"/history/{gone}").json() == {"deleted": 1}
    assert not any(traces(database, gone).values())
    assert gone not in [item["id"] for item in client.history(q="zyzzyva")["data"]]
    is_problem(client.get(f"/history/{gone}"), 404)
    is_problem(client.call("DELETE", f"/history/{gone}"), 404)
    left = client.history(again.completion_id)
    assert left["regenerated_from"] is None and left["conversation"] == [kept, again.completion_id]


def test_a_conversation_goes_with_its_last_answer(client: Client, database: Database, upstream: Upstream) -> None:
    first = ask(client, upstream)
    talk = client.history(first)["conversation_id"]
    second = ask(client, upstream, conversation_id=talk)
    client.call("DELETE", f"/history/{first}")
    assert database.value("SELECT count(*) FROM conversations WHERE id = :id", id=talk) == 1
    client.call("DELETE", f"/history/{second}")
    assert database.value("SELECT count(*) FROM conversations WHERE id = :id", id=talk) == 0
    is_problem(client.ask("Hello?", conversation_id=talk), 404)


def test_a_whole_conversation_is_deleted_at_once(client: Client, database: Database, upstream: Upstream) -> None:
    first = ask(client, upstream)
    talk = client.history(first)["conversation_id"]
    second = ask(client, upstream, conversation_id=talk)
    assert client.call("DELETE", f"/conversations/{talk}").json() == {"deleted": 2}
    assert not any({**traces(database, first), **traces(database, second)}.values())
    is_problem(client.call("DELETE", f"/conversations/{talk}"), 404)


def test_what_is_being_written_is_not_deleted(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    stream = writing(client, upstream, gate)
    for path in (f"/history/{stream.completion_id}", f"/conversations/{stream.conversation_id}"):
        assert "still being written" in is_problem(client.call("DELETE", path), 409)["detail"]
    gate.open()
    assert stream.end().name == "completed"
    assert client.history(stream.completion_id)["response"] == "so far and on"


def test_a_filters_worth_is_shown_confirmed_and_deleted(client: Client, database: Database, upstream: Upstream) -> None:
    first = ask(client, upstream)
    talk = client.history(first)["conversation_id"]
    ids = [first, *(ask(client, upstream, conversation_id=talk) for _ in range(11))]
    judge(client, first)
    elsewhere = ask(client, upstream)
    page, path = client.page(f"/delete?conversation_id={talk}"), f"/delete?conversation_id={talk}"
    words = re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", page.text)))
    assert "Answers 12" in words and "Judgements of them 1" in words

    def send(shown: int, typed: str) -> tuple[int, str]:
        response = client.call("POST", path, data={"shown": shown, "typed": typed}, headers={"Accept": "text/html"})
        return response.status_code, response.text
    assert send(12, "11")[0] == send(12, "")[0] == send(12, "yes")[0] == 422
    gate = Gate()
    running = writing(client, upstream, gate, conversation_id=talk)
    assert "1 answer is still being written and will stay" in html.unescape(client.page(path).text)
    late = ask(client, upstream)
    code, text = send(11, "11")
    assert code == 409, "it has grown since"
    assert "This request deleted nothing" in text and "A deletion may be under way already" in text
    assert all(traces(database, completion_id)["completions"] for completion_id in ids)
    code, text = send(12, " 12 ")
    assert code == 200 and "12 answers are deleted" in text and "12 of 12 deleted" in text
    assert not any(count for completion_id in ids for count in traces(database, completion_id).values())
    gate.open()
    assert running.end().name == "completed"
    assert [item["id"] for item in client.history(conversation_id=talk)["data"]] == [running.completion_id]
    assert client.history(elsewhere) and client.history(late)
    assert database.value("SELECT count(*) FROM audit WHERE action = 'delete' AND target = 'history'")


def test_a_deletion_that_a_fault_ends_says_so_and_keeps_the_rest(client: Client, database: Database, upstream: Upstream) -> None:
    kept = ask(client, upstream)
    path = f"/delete?conversation_id={client.history(kept)['conversation_id']}"
    database.execute("CREATE TABLE holders (completion_id INTEGER NOT NULL REFERENCES completions (id))")
    try:
        database.execute("INSERT INTO holders (completion_id) VALUES (:id)", id=kept)
        page = client.call("POST", path, data={"shown": 1, "typed": "1"}, headers={"Accept": "text/html"}).text
    finally:
        database.execute("DROP TABLE holders")
    assert "It ended early, because there was a fault; the log has the details: 0 of 1 answer was deleted" in page
    assert client.history(kept)["response"] == "An answer with the word."
    assert database.value("SELECT count(*) FROM audit WHERE action = 'delete ended early'") == 1


def test_a_row_that_is_deleted_under_its_writer_harms_nobody(client: Client, database: Database, upstream: Upstream) -> None:
    """As by hand in the database: its readers are cut, other answers go on."""
    gates = [Gate(), Gate()]
    doomed, other = (writing(client, upstream, gate) for gate in gates)
    follower = client.reattach_events(doomed.completion_id)
    with database.engine.begin() as connection:
        for by_hand in ("UPDATE completions SET status = status WHERE id = :id",  # no piece is stored between the two that follow
                        "DELETE FROM chunks WHERE completion_id = :id", "DELETE FROM completions WHERE id = :id"):
            connection.execute(sa.text(by_hand), {"id": doomed.completion_id})
    for gate in gates:
        gate.open()
    assert doomed.end().name != "completed"
    assert follower.end().name != "completed"
    assert other.end().name == "completed"
    assert client.history(other.completion_id)["response"] == "so far and on"
    assert not any(traces(database, doomed.completion_id).values())


def command(database: Database, *words: str) -> str:
    app = create_app({"DATABASE_URL": database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"})
    ran = app.test_cli_runner().invoke(args=words)
    assert ran.exit_code == 0, ran.output
    return ran.output


def make_old(database: Database, completion_id: int, days: int) -> None:
    at = datetime.now(UTC) - timedelta(days=days)
    stored = f"{at:%Y-%m-%d %H:%M:%S.%f}" if database.kind == "sqlite" else at
    database.execute("UPDATE completions SET created_at = :at WHERE id = :id", id=completion_id, at=stored)


def stored(database: Database) -> list[int]:
    return [row["id"] for row in database.rows("SELECT id FROM completions ORDER BY id")]


def test_what_is_too_old_goes_by_command_and_by_setting(
        start: Any, new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "demo", "--count", "3")
    database.execute("UPDATE completions SET status = 'completed' WHERE status = 'in_progress'")
    ids = stored(database)
    for completion_id, days in zip(ids, (100, 40, 0), strict=True):
        make_old(database, completion_id, days)
    assert "older than 60 days: answers 1" in command(database, "retain", "--days", "60", "--dry-run")
    assert stored(database) == ids
    assert "deleted: answers 1." in command(database, "retain", "--days", "60")
    assert stored(database) == ids[1:]
    start(database, WEB_CONCURRENCY=2, LLMSTREAM_RETENTION_DAYS=30)
    eventually(lambda: stored(database) == ids[2:], 15, "the retention")


def test_a_conversation_that_goes_on_keeps_nothing_of_the_deleted_turn(client: Client, upstream: Upstream) -> None:
    first = client.stream_text("A secret: xyzzy")
    first.text()
    second = ask(client, upstream, conversation_id=first.conversation_id)
    assert client.call("DELETE", f"/history/{first.completion_id}").json() == {"deleted": 1}
    for path in ("/", f"/?conversation={first.conversation_id}", f"/history/{second}"):
        assert "xyzzy" not in client.page(path).text, path
    page = client.page(f"/history/{second}").text
    assert "Earlier turns of its conversation were deleted" in page and "first prompt of its conversation" not in page
    again = client.call("POST", f"/history/{second}/again", allow_redirects=False).headers["Location"]
    assert f"Earlier turns of completion {second} were deleted" in client.page(again).text
    client.finished(int(again.rsplit("/", 1)[1]))  # one answer at a time in a conversation
    later = ask(client, upstream, conversation_id=first.conversation_id)
    assert "were deleted" not in client.page(f"/history/{later}").text, "it was asked after just what is there"


def test_turns_that_were_too_old_to_be_sent_go_and_the_example_stays_what_was_sent(
        client: Client, database: Database, upstream: Upstream) -> None:
    scripts = [upstream.script(*answer(f"answer {i}")) for i in range(6)]
    ids = [turn(client, scripts[0], prompt="x" * 7000)]
    talk = client.history(ids[0])["conversation_id"]
    ids += [turn(client, script, talk, prompt="x" * 7000) for script in scripts[1:]]
    assert client.history(ids[-1])["dropped_turns"] >= 3
    sent = [{"role": role, "content": content} for role, content in told(scripts[-1])]

    def exported() -> list[dict[str, str]]:
        *_, last = client.get(f"/history.chat.jsonl?conversation_id={talk}").text.splitlines()
        return [{name: one[name] for name in ("role", "content")} for one in json.loads(last)["messages"]][:-1]

    assert exported() == sent
    for completion_id in ids[:2]:
        assert client.call("DELETE", f"/history/{completion_id}").status_code == 200
        assert exported() == sent
    assert client.history(ids[-1])["dropped_turns"] == 6 - 1 - 2 - len(sent) // 2


def test_a_regeneration_stays_in_the_place_of_a_deleted_original(client: Client, upstream: Upstream) -> None:
    original = client.stream_text(upstream.script(*answer("one")).then(*answer("other one")).prompt)
    original.text()
    talk = original.conversation_id
    following = upstream.script(*answer("two")).then(*answer("other two"))
    second = client.stream_text(following.prompt, conversation_id=talk)
    second.text()
    again = client.stream_text(regenerate=original.completion_id)
    again.text()
    once_more = client.stream_text(regenerate=again.completion_id)
    once_more.text()
    for gone in (original.completion_id, again.completion_id):
        assert client.call("DELETE", f"/history/{gone}").json() == {"deleted": 1}
    assert "first prompt of its conversation" in client.page(f"/history/{once_more.completion_id}").text
    lines = client.get(f"/history.chat.jsonl?conversation_id={talk}").text.splitlines()
    roles = {len(json.loads(line)["messages"]) for line in lines}
    assert roles == {2}, "nothing is put before it that was not sent with it"
    client.stream_text(regenerate=second.completion_id).text()
    assert [one["role"] for one in following.call(2).messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize("path", ["/history/999999999", "/conversations/999999999", "/history/" + "9" * 30])
def test_what_is_not_there_cannot_be_deleted(client: Client, path: str) -> None:
    is_problem(client.call("DELETE", path), 404)
