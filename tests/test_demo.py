"""`flask --app wsgi demo`: a history in which everything occurs, that never touches what is there."""
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from llmstream import create_app
from llmstream.demo import Writer, store
from llmstream.endings import ENDINGS
from llmstream.models import Completion
from tests.service import Database

COUNT = 300


def flask_command(database: Database, *words: str) -> Any:
    app = create_app({"DATABASE_URL": database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"})
    return app.test_cli_runner().invoke(args=words)


@pytest.fixture(scope="module")
def history(new_database: Callable[[], Database]) -> Database:
    database = new_database()
    ran = flask_command(database, "demo", "--count", str(COUNT), "--days", "20")
    assert ran.exit_code == 0 and f"{COUNT} completions" in ran.output and "/history" in ran.output, ran.output
    return database


def values(database: Database, column: str) -> set[Any]:
    return {row["v"] for row in database.rows(f"SELECT DISTINCT {column} AS v FROM completions")}


def test_everything_that_can_occur_does(history: Database) -> None:
    assert values(history, "status") == {"in_progress", "completed", "failed", "incomplete", "cancelled"}
    assert values(history, "error_type") == {None, *ENDINGS}
    assert values(history, "finish_reason") == {None, "stop", "length", "content_filter"}
    assert values(history, "source") == {"chat", "api"} and values(history, "rating") == {None, "good", "bad"}
    for kind in ("role = 'user'", "role = 'reviewer'", "correction IS NOT NULL", "note IS NOT NULL"):
        assert history.value(f"SELECT count(*) FROM reviews WHERE {kind}"), kind
    for table in ("tags", "saved_views", "chunks"):
        assert history.value(f"SELECT count(*) FROM {table}"), table
    assert history.value("SELECT count(*) FROM completions WHERE regenerated_from IS NOT NULL")
    assert history.value("SELECT max(n) FROM (SELECT count(*) AS n FROM completions GROUP BY conversation_id) AS t") > 2


def test_the_answer_being_written_has_a_text_where_the_newest_one_has_none(new_database: Callable[[], Database]) -> None:
    end = datetime(2026, 11, 2)
    silent = next(seed for seed in range(1000) if not Writer(seed, end - timedelta(9), end).rows(20)[-1]["response"])
    database = new_database()
    assert flask_command(database, "prepare").exit_code == 0
    store(database.engine, Writer(silent, end - timedelta(9), end), 20)
    (chunk,) = database.rows("SELECT completion_id, text FROM chunks")
    assert chunk["text"] and database.completion(chunk["completion_id"])["status"] == "in_progress"


def test_its_rows_hold_together(history: Database) -> None:
    from sqlalchemy import select
    with history.engine.connect() as connection:
        rows = connection.execute(select(Completion.__table__).order_by(Completion.id)).all()
    assert [row.created_at for row in rows] == sorted(row.created_at for row in rows), "ids follow time"
    by_id = {row.id: row for row in rows}
    for row in rows:
        points = row.timeline or [[0, 0]]
        assert row.status == "in_progress" or points[-1][0] == len(row.response.encode())
        assert points == sorted(points) and all(row.response.encode()[:at].decode() is not None for at, _ in points)
        if row.regenerated_from:
            first = by_id[row.regenerated_from]
            assert first.id < row.id and (first.conversation_id, first.prompt) == (row.conversation_id, row.prompt)


def test_times_are_in_utc_whatever_zone_the_database_has(history: Database) -> None:
    from sqlalchemy import select, text
    with history.engine.connect() as connection:
        if history.kind == "postgresql":
            connection.execute(text("SET timezone TO 'America/New_York'"))
        at = connection.scalar(select(Completion.created_at).limit(1))
    assert at and at.tzname() == "UTC"


def test_what_is_there_is_not_touched(history: Database) -> None:
    before = history.rows("SELECT id, prompt, response, status FROM completions ORDER BY id")
    refused = flask_command(history, "demo")
    assert refused.exit_code == 1 and "Nothing was changed" in refused.output
    added = flask_command(history, "demo", "--add", "--count", "25")
    assert added.exit_code == 0, added.output
    after = history.rows("SELECT id, prompt, response, status FROM completions ORDER BY id")
    assert after[:COUNT] == before and len(after) == COUNT + 25
    assert history.value("SELECT max(n) FROM (SELECT count(*) AS n FROM saved_views GROUP BY name) AS t") == 1
    times = [row["created_at"] for row in history.rows("SELECT created_at FROM completions ORDER BY id")]
    assert times == sorted(times)
    next_id = history.value("INSERT INTO conversations (owner, title, created_at) VALUES ('o', 't', '2026-01-01') RETURNING id")
    assert next_id > history.value("SELECT max(conversation_id) FROM completions"), "whoever comes next gets an id of their own"
