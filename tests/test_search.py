"""`q`: words, "phrases" and prefi*, the same on both databases; what is searchable, and when."""
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from llmstream.words import mark
from tests.client import Client, eventually
from tests.exchange import Gate
from tests.service import Database, Service
from tests.steps import answer, held
from tests.upstream import Upstream

TEXTS = {
    "fox": "The quick brown fox — jumps over the lazy dog's café",
    "turned": "The brown quick dog jumps over NEAR the fox AND OR NOT",
    "code": "call foo_bar(x) from src/llm/stream.py: it costs 3.50 EUR or 20% 😀",
    "german": "Die Straße nach KÖLN",
    "chinese": "我想退款。谢谢你的帮助",
    "japanese": "返金はいつ届きますか",
    "thai": "สวัสดีครับ ขอเงินคืน",
    "arabic": "مرحبا بالعالم كيف حالك",
    "hindi": "नमस्ते दुनिया",
    "long": "x" * 5000 + " after a very long word",
    "quoted": 'a "quoted" word, it\'s \\ back : slash ^ caret - minus (parens) {braces} [brackets] * star',
}


def search(client: Client, q: str, **query: object) -> list[int]:
    return [row["id"] for row in client.history(q=q, limit=100, **query)["data"]]


@pytest.fixture(scope="module")
def ids(client: Client) -> dict[str, int]:
    """A completion for each text, once all of them can be found."""
    made = {}
    for name, text in TEXTS.items():
        stream = client.stream_text(f"{text} marker{name}")
        stream.text()
        made[name] = stream.completion_id
    for name, completion_id in made.items():
        eventually(lambda: completion_id in search(client, f"marker{name}"), 15, f"finding {name}")  # noqa: B023
    return made


@pytest.mark.parametrize(("q", "found"), [
    ("quick fox", "fox turned"), ("QUICK Fox", "fox turned"), ('"quick brown"', "fox"), ('"brown quick"', "turned"),
    ('"quick fox"', ""), ("qui* bro*", "fox turned"), ('"quick bro"*', "fox"), ("qui", ""), ("cafe", "fox"), ("CAFÉ", "fox"),
    ("dog's", "fox"), ('quick "lazy dog', "fox"), ("near", "turned"), ("NEAR(the fox)", "turned"), ("NOT AND OR", "turned"),
    ("fox NOT brown", "turned"), ("foo_bar", "code"), ("foo", "code"), ("stream.py", "code"), ("src/llm", "code"),
    ("3.50", "code"), ("20%", "code"), ("😀", "code"), ("strasse", "german"), ("köln", "german"), ("koln", "german"),
    ("退款", "chinese"), ("款退", ""), ("退款 帮助", "chinese"), ("返金", "japanese"), ("いつ", "japanese"), ("เงิน", "thai"),
    ("بالعالم", "arabic"), ("دنيا", ""), ("दुनिया", "hindi"), ("after a very long word", "long"), ("x" * 64, "long"),
    ("x" * 499, "long"),
    ("quoted", "quoted"), ("it's", "quoted"), ("caret : ^ minus -", "quoted"), ("(parens) {braces}", "quoted")])
def test_words_phrases_and_prefixes_mean_the_same_on_both_databases(
        client: Client, ids: dict[str, int], q: str, found: str) -> None:
    ours = {completion_id: name for name, completion_id in ids.items()}
    assert {ours[i] for i in search(client, q) if i in ours} == set(found.split())


@pytest.mark.parametrize("q", [
    '"', '""', "*", "**", '"*', "'", "''", "\\", "(", ")", "((", "AND", "OR NOT", "NEAR/3", "a:b", "prompt:fox", "-fox", "+fox",
    "^fox", "fox^2", "{a b}", "fo*x", "*fox", "'fox':*", "fox | dog", "fox & dog", "!fox", "fox <-> dog", "fox <2> dog", "%",
    "_", ";--", "🤷‍♀️", "\u200f\u202e", "\u0301", "\ufffd", "a" * 500, '" ' * 250, "é" * 500, "* " * 250, "\t\n fox \r"])
def test_no_characters_are_an_error(client: Client, ids: dict[str, int], q: str) -> None:
    search(client, q)
    assert client.get("/history", params={"q": q}, headers={"Accept": "text/html"}).status_code == 200


def test_a_query_without_words_finds_nothing(client: Client, ids: dict[str, int]) -> None:
    assert search(client, '"*" ...') == []


def test_prompts_and_answers_are_found_soon_after_the_end_and_not_before(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    stream = client.stream_events(upstream.script(*held(gate, "the zanzibar answer ", "is over")).prompt + " askedzanzibar")
    stream.until("delta")
    other = client.stream_text(upstream.script(*answer("one that ended meanwhile zebulon")).prompt)
    other.text()
    eventually(lambda: search(client, "zebulon") == [other.completion_id], 15, "finding the other")
    assert search(client, "zanzibar") == search(client, "askedzanzibar") == []
    gate.open()
    assert stream.end().name == "completed"
    eventually(lambda: search(client, "zanzibar over") == [stream.completion_id], 15, "finding it")
    assert search(client, "askedzanzibar") == [stream.completion_id]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)  # where who writes can keep others from reading
def test_a_database_that_was_held_does_not_keep_the_search_back(
        start: Callable[..., Service], new_database: Callable[[], Database], upstream: Upstream) -> None:
    database = new_database()
    client = start(database, WEB_CONCURRENCY=1).client
    earlier = client.stream_text("Once found, then missing: basilisk")
    earlier.text()
    eventually(lambda: search(client, "basilisk"), 15, "finding it")
    gate = Gate()
    live = client.stream_events(upstream.script(*held(gate, "while others write ", "the index takes a small share")).prompt)
    live.until("delta")
    with database.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE completions IN ACCESS EXCLUSIVE MODE")
        connection.execute(sa.text("DELETE FROM completions_fts WHERE completion_id = :id"), {"id": earlier.completion_id})
        connection.execute(sa.text("INSERT INTO completions_fts_queue VALUES (:id)"), {"id": earlier.completion_id})
        time.sleep(3)  # the index looks once a second, and has to wait
    client.stream_text("Soon found: manticore").text()
    eventually(lambda: search(client, "basilisk") and search(client, "manticore"), 15, "finding both")
    gate.open()
    assert live.end().name == "completed"


def test_what_is_deleted_is_not_found(client: Client, database: Database) -> None:
    stream = client.stream_text("Soon deleted: wolpertinger")
    stream.text()
    eventually(lambda: search(client, "wolpertinger"), 15, "finding it")
    delete(database, stream.conversation_id)
    assert search(client, "wolpertinger") == []


def delete(database: Database, conversation_id: int) -> None:
    with database.engine.begin() as connection:
        if database.kind == "sqlite":
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.execute(sa.text("DELETE FROM conversations WHERE id = :id"), {"id": conversation_id})


def test_all_of_an_old_database_becomes_searchable(start: Callable[..., Service], new_database: Callable[[], Database]) -> None:
    service = start(new_database(), WEB_CONCURRENCY=1)
    made = [service.client.stream_text(f"Number {i}") for i in range(20)]
    ids = [stream.completion_id for stream in made if stream.text()]
    eventually(lambda: len(search(service.client, "number")) == 20, 15)
    service.stop()
    assert service.database
    service.database.execute("DELETE FROM completions_fts")
    service.database.execute("INSERT INTO completions_fts_queue SELECT id FROM completions")
    again = start(service.database, WEB_CONCURRENCY=1)
    eventually(lambda: search(again.client, "number") == ids[::-1], 20, "indexing again")


def test_matches_are_marked_in_the_list_and_stay_text(client: Client, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(*answer("filler " * 200 + "here <b>Brontë</b> & co. " + "filler " * 200)).prompt)
    stream.text()
    eventually(lambda: search(client, "bronte"), 15, "finding it")
    page = client.page("/history?q=bronte").text
    assert "here &lt;b&gt;<mark>Brontë</mark>&lt;/b&gt; &amp; co." in page


def test_a_search_goes_with_other_filters(client: Client, ids: dict[str, int]) -> None:
    assert search(client, "markerfox", status="completed") == [ids["fox"]]
    assert search(client, "markerfox", status="failed") == []


@pytest.mark.alone
def test_a_long_answer_is_marked_at_once() -> None:
    marks = "hit " + "\u0301" * 25_000 + "\u0316" * 25_000
    for text in ("ab " * 300_000, "x" * 300_000, "é" * 300_000, "- " * 300_000, "\U0001f600" * 300_000, marks):
        started = time.monotonic()
        mark(text, '"ab abc" x* "ab ab ab ac" "x y"')
        assert time.monotonic() - started < 0.25
    started = time.monotonic()
    assert "<mark>" in mark("\U0001f600" * 80 + "y" + "\U0001f600" * 40 + "x", "\U0001f600" * 40 + "x")
    assert time.monotonic() - started < 0.25
