"""What leaves the history: exactly the filtered rows, faithful as JSON Lines, safe as a table, and never half without a sign."""
import csv
import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from llmstream.demo import Writer, store
from tests.client import Client, eventually
from tests.contract import is_problem
from tests.service import Database, Service, one_database
from tests.steps import answer, close, delta
from tests.upstream import Upstream

ROWS = 400
FORMATS = ["history.csv", "history.jsonl", "history.chat.jsonl", "history.preferences.jsonl"]
NAUGHTY = [
    "plain", 'a "quoted" word', "comma, semicolon; tab\there", "two\nlines", "two\r\nlines", "a lone\rreturn", " spaces around ",
    "émoji 👩‍👩‍👧‍👦 and ümlaut", "مرحبا بالعالم", "line\u2028separator\u0085next", "\ufeffBOM first", "x" * 70_000, '"', '","',
    "'apostrophe",
]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1+1", "\u3000\uff1d1+1", "\uff0b1", "\uff0d1",
            "\uff20x", "\u200b=1", "=cmd|' /C calc'!A0"]


@pytest.fixture(scope="module")
def filled(launch: Callable[..., Service], new_database: Callable[[], Database]) -> Iterator[Service]:
    """A service with a made-up history in which nothing changes any more."""
    service = launch(new_database(), WEB_CONCURRENCY=1, LLMSTREAM_READER_TIMEOUT_S=1)
    assert service.database
    end = datetime.now(UTC)
    store(service.database.engine, Writer(7, end - timedelta(days=30), end), ROWS)
    eventually(lambda: not service.database.value("SELECT count(*) FROM completions WHERE status = 'in_progress'"), 10)
    yield service
    service.stop()


def lines(client: Client, path: str) -> list[Any]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.content.decode().split("\n")[:-1]]


def records(text: str) -> list[list[str]]:
    """RFC 4180 to the letter: records end with CRLF, a field with a quote, comma or line break is quoted, quotes are doubled."""
    field = r'"(?:[^"]|"")*"|[^",\r\n]*'
    found: list[list[str]] = []
    at = 0
    pattern = re.compile(rf"({field})(,|\r\n)")
    row: list[str] = []
    while at < len(text):
        match = pattern.match(text, at)
        assert match, f"not RFC 4180 at {text[at:at + 60]!r}"
        value = match[1]
        row.append(value[1:-1].replace('""', '"') if value.startswith('"') else value)
        if match[2] != ",":
            found.append(row)
            row = []
        at = match.end()
    assert not row
    return found


def everything(client: Client, query: str = "") -> list[dict[str, Any]]:
    """What the pages of the list show, oldest first."""
    found, before = [], ""
    while before is not None:
        page = client.get(f"/history?limit=100&{query}{before}").json()
        found += page["data"]
        before = f"&before={page['next_before']}" if page["next_before"] else None
    return found[::-1]


def test_the_table_is_one_of_rfc_4180_that_a_spreadsheet_opens(filled: Service) -> None:
    response = filled.client.get("/history.csv")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r'attachment; filename="llmstream-\d{4}-\d\d-\d\d\.csv"', response.headers["Content-Disposition"])
    text = response.content.decode()
    assert text.startswith("\ufeffid,conversation_id,created_at,prompt,response,"), "the BOM tells a spreadsheet that it is UTF-8"
    table = records(text[1:])
    assert table == list(csv.reader(io.StringIO(text[1:], newline="")))
    assert {len(row) for row in table} == {len(table[0])}
    assert [int(row[0]) for row in table[1:]] == list(range(1, ROWS + 1))


def test_json_lines_are_what_the_api_shows_with_reviews_and_tags(filled: Service) -> None:
    exported = lines(filled.client, "/history.jsonl")
    assert any(item["reviews"] for item in exported) and any(item["tags"] for item in exported)
    reviewed = next(item for item in exported if item["reviews"])
    said = filled.client.get(f"/history/{reviewed['id']}/reviews").json()["data"]
    assert [review["reviewer"] for review in reviewed["reviews"]] == [review["reviewer"] for review in said][::-1]
    tagged = next(item for item in exported if item["tags"])
    assert sorted((one["name"], one["change"]) for one in tagged["tag_changes"]) == [(name, "added") for name in tagged["tags"]]
    offsets, times = zip(*next(item for item in exported if item["status"] == "completed")["timeline"], strict=True)
    assert list(offsets) == sorted(offsets) and list(times) == sorted(times)
    listed = everything(filled.client)
    assert [{name: item.get(name) for name in row} for item, row in zip(exported, listed, strict=True)] == listed


def test_a_row_of_the_table_does_not_mix_judgements(client: Client) -> None:
    stream = client.stream_text("To be judged twice")
    stream.text()
    address = f"/history/{stream.completion_id}/reviews"
    bad = {"rating": "bad", "reason": "wrong fact", "note": "see the manual", "correction": "Right."}
    for said in (bad, {"rating": "good"}, {"note": "a comment"}):
        assert client.call("POST", address, json=said).status_code == 201
    table = records(client.get(f"/history.csv?conversation_id={stream.conversation_id}").content.decode()[1:])
    row = dict(zip(*table, strict=True))
    assert [row[name] for name in ("rating", "reviewer", "review_reason", "review_note", "correction")] == [
        "good", "local", "", "", "Right."]


@pytest.mark.parametrize("query", ["status=failed&status=incomplete", "rating=bad", "source=api&model=gpt-4.1-mini",
                                   "reviewed=no&rating=none", "tag=billing", "reason=made up",
                                   "min_duration_ms=2000", "from=2001-01-01&to=2001-12-31"])
def test_exactly_the_filtered_ones_are_exported(filled: Service, query: str) -> None:
    ids = [item["id"] for item in everything(filled.client, query)]
    assert [item["id"] for item in lines(filled.client, f"/history.jsonl?{query}")] == ids
    table = records(filled.client.get(f"/history.csv?{query}").content.decode()[1:])
    assert [int(row[0]) for row in table[1:]] == ids
    shown = f"{len(ids):,}</strong>" if ids else "Nothing to export"
    assert shown in filled.client.page(f"/export?{query}").text


@pytest.mark.parametrize("name", FORMATS)
def test_parts_put_together_are_the_whole(filled: Service, name: str) -> None:
    def part(query: str) -> bytes:
        return filled.client.get(f"/{name}?{query}").content
    whole = part("")
    assert whole == part("upto=123") + part("after=123&upto=124") + part("after=124&upto=390") + part("after=390")
    assert part(f"after={ROWS}") == b""


def test_a_table_that_broke_off_is_taken_up_after_its_last_id(filled: Service) -> None:
    whole = filled.client.get("/history.csv?rating=good").content
    half = whole[:len(whole) // 2].decode(errors="ignore")
    kept = half[:half.rindex("\r\n", 0, half.rindex("\r\n"))] if half.count("\r\n") > 1 else half
    table = list(csv.reader(io.StringIO(kept[1:], newline="")))
    last = next(row[0] for row in reversed(table) if len(row) == len(table[0]) and row[0].isdigit())
    rest = records(filled.client.get(f"/history.csv?rating=good&after={last}").content.decode())
    ids = [row[0] for row in records(whole.decode()[1:])[1:]]
    assert [row[0] for row in rest] == ids[ids.index(last) + 1:]


def test_naughty_texts_come_back_as_they_went_in_and_formulas_are_disarmed(client: Client) -> None:
    first = client.stream_text(NAUGHTY[0])
    first.text()
    for prompt in [*NAUGHTY[1:], *FORMULAS]:
        client.stream_text(prompt, conversation_id=first.conversation_id).text()
    mine = f"conversation_id={first.conversation_id}"
    assert [item["prompt"] for item in lines(client, f"/history.jsonl?{mine}")] == [*NAUGHTY, *FORMULAS]
    headings, *table = records(client.get(f"/history.csv?{mine}").content.decode()[1:])
    assert [row[headings.index("prompt")] for row in table] == [*NAUGHTY, *("'" + formula for formula in FORMULAS)]


def test_an_empty_export_is_empty_and_whole(filled: Service) -> None:
    nothing = "?from=2001-01-01&to=2001-01-02"
    assert filled.client.get(f"/history.jsonl{nothing}").content == b""
    assert len(records(filled.client.get(f"/history.csv{nothing}").content.decode()[1:])) == 1


@pytest.mark.parametrize(("query", "field"), [("after=x", "after"), ("upto=-1", "upto"), ("after=" + "9" * 30, "after"),
                                              ("reviewed=perhaps", "reviewed"), ("limit=5", "limit")])
def test_a_wrong_export_is_refused(client: Client, query: str, field: str) -> None:
    for name in FORMATS:
        assert field in is_problem(client.get(f"/{name}?{query}"), 422)["errors"]


@one_database
def test_an_export_that_fails_midway_is_cut(filled: Service) -> None:
    """What cannot be read stands for any failure: a row whose JSON is broken."""
    database = filled.database
    assert database
    kept = database.value("SELECT parameters FROM completions WHERE id = 333")
    database.execute("UPDATE completions SET parameters = '{' WHERE id = 333")
    try:
        for name in ("history.csv", "history.jsonl", "history.chat.jsonl"):
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                filled.client.get(f"/{name}")
        old = filled.talk(b"GET /history.jsonl HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert old.startswith(b"HTTP/1.1 500") or b"500" in old.split(b"\r\n")[0], "HTTP/1.0 cannot show a cut"
        assert filled.client.get("/history.jsonl?upto=332").status_code == 200
    finally:
        database.execute("UPDATE completions SET parameters = :kept WHERE id = 333", kept=kept)
    assert len(lines(filled.client, "/history.jsonl")) == ROWS


@one_database
def test_http_1_0_is_told_the_length(filled: Service) -> None:
    head, _, body = filled.talk(b"GET /history.jsonl HTTP/1.0\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length and int(length[1]) == len(body) and body == filled.client.get("/history.jsonl").content


@one_database
def test_one_who_stops_reading_is_let_go_and_holds_up_nobody(filled: Service) -> None:
    with small_reader(filled) as idle:
        assert len(lines(filled.client, "/history.jsonl")) == ROWS
        eventually(lambda: not has_connection(filled, idle.getsockname()[1]), 6, "letting go")


@one_database
def test_one_who_reads_slowly_but_reads_gets_all_of_it(filled: Service) -> None:
    """The limit (1 s here) is for each piece, not for all that is sent in one go."""
    with small_reader(filled) as slow:
        received, began = 0, time.monotonic()
        while received < 500_000 and (piece := slow.recv(8192)):
            received += len(piece)
            time.sleep(max(0, began + received / 200_000 - time.monotonic()))
    assert received >= 500_000


def small_reader(service: Service) -> socket.socket:
    """Asks for all of the history, with little room for what comes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", service.port))
    sock.sendall(b"GET /history.jsonl HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return sock


def has_connection(service: Service, port: int) -> bool:
    """Whether the service still holds the other end of our connection."""
    wanted = f":{service.port:04X} 0100007F:{port:04X} 01"
    with open("/proc/net/tcp") as table:
        return any(wanted in line for line in table)


def review(client: Client, completion_id: int, **said: str) -> None:
    assert client.call("POST", f"/history/{completion_id}/reviews", json=said).status_code == 201


def test_examples_are_the_conversation_as_sent_with_the_corrected_answer(client: Client, upstream: Upstream) -> None:
    first = client.stream_text(upstream.script(answer("Paris")).prompt, system="Be brief.")
    first.text()
    bad = client.stream_text(upstream.script(answer("Rome")).prompt, conversation_id=first.conversation_id)
    bad.text()
    again = client.stream_text(regenerate=bad.completion_id)
    again.text()
    cut = client.stream_text(upstream.script(delta("half"), close()).prompt, conversation_id=first.conversation_id)
    cut.rest()
    review(client, bad.completion_id, rating="bad")
    prompts = {item["id"]: item["prompt"] for item in lines(client, f"/history.jsonl?conversation_id={first.conversation_id}")}
    system = {"role": "system", "content": "Be brief."}

    def turn(completion_id: int, text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompts[completion_id]}, {"role": "assistant", "content": text}]

    def earlier(*turns: dict[str, str]) -> list[dict[str, Any]]:
        return [{**one, "weight": 0} if one["role"] == "assistant" else one for one in turns]
    mine = f"conversation_id={first.conversation_id}"
    begin = [system, *turn(first.completion_id, "Paris")]
    retried = client.history(again.completion_id)["response"]
    assert lines(client, f"/history.chat.jsonl?{mine}") == [
        {"messages": begin}, {"messages": [*earlier(*begin), *turn(bad.completion_id, retried)]}]
    assert lines(client, f"/history.preferences.jsonl?{mine}") == []
    review(client, bad.completion_id, correction="London")
    review(client, cut.completion_id, rating="bad", correction="whole")
    examples = lines(client, f"/history.chat.jsonl?{mine}")
    assert {"messages": [*earlier(*begin), *turn(bad.completion_id, "London")]} in examples
    past = earlier(*begin, *turn(bad.completion_id, retried))
    assert examples[-1]["messages"] == [*past, *turn(cut.completion_id, "whole")]
    asked = {"role": "user", "content": prompts[bad.completion_id]}
    assert lines(client, f"/history.preferences.jsonl?{mine}")[0] == {
        "prompt": [*begin, asked], "chosen": [{"role": "assistant", "content": "London"}],
        "rejected": [{"role": "assistant", "content": "Rome"}]}
    review(client, bad.completion_id, correction="Rome")  # what the model said: takes the correction back
    assert "London" not in client.get(f"/history.chat.jsonl?{mine}").text
    assert len(lines(client, f"/history.preferences.jsonl?{mine}")) == 1, "the other one is still there"


def test_each_export_is_written_down(client: Client, database: Database) -> None:
    client.get("/history.csv?status=failed&after=5")
    written = database.rows("SELECT * FROM audit WHERE action = 'export' ORDER BY id DESC LIMIT 1")[0]
    details = written["details"] if isinstance(written["details"], dict) else json.loads(written["details"])
    assert (written["target"], written["remote_addr"], details) == (
        "history.csv", "127.0.0.1", {"query": "status=failed", "after": 5})
