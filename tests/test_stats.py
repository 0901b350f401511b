"""GET /stats: its figures are those that can be counted from the history, for any filter, on both databases."""
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from werkzeug.datastructures import MultiDict

from llmstream import create_app
from llmstream.extensions import db
from llmstream.figures import Counts
from llmstream.filters import Filter
from tests.client import Client, eventually
from tests.conftest import Launch
from tests.exchange import Gate
from tests.service import Database, Service, one_database
from tests.steps import delta, done, finish, wait_for
from tests.test_demo import flask_command
from tests.upstream import Upstream

ENDED = ("completed", "cancelled", "incomplete", "failed")
EVE, MIDNIGHT = "2026-01-31 23:59:59.999", "2026-02-01 00:00:00.000"


@pytest.fixture(scope="module")
def numbers(new_database: Callable[[], Database], launch: Launch) -> Iterator[Service]:
    """A service with a few hundred answers of the last 20 days, and two from around a midnight in winter."""
    database = new_database()
    assert flask_command(database, "demo", "--count", "400", "--days", "20").exit_code == 0
    database.execute("UPDATE completions SET status = 'cancelled' WHERE status = 'in_progress'")
    first = database.value("SELECT min(id) FROM completions")
    for place, at in enumerate((EVE, MIDNIGHT)):
        zone = "000" if database.engine.dialect.name == "sqlite" else "+00"
        database.execute("UPDATE completions SET created_at = :at WHERE id = :id", at=at + zone, id=first + place)
    service = launch(database, WEB_CONCURRENCY=1)
    eventually(lambda: not database.value("SELECT count(*) FROM completions_fts_queue"), 20, "the search index")
    yield service
    service.stop()


def stats(service: Service, query: str) -> dict[str, Any]:
    response = service.client.get(f"/stats?{query}")
    assert response.status_code == 200, response.text
    return response.json()


def listed(service: Service, query: str) -> list[dict[str, Any]]:
    """All that the history lists."""
    rows: list[dict[str, Any]] = []
    before = ""
    while True:
        page = service.client.get(f"/history?{query}&limit=100{before}").json()
        rows += page["data"]
        if not page["next_before"]:
            return rows
        before = f"&before={page['next_before']}"


def is_right(figures: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Compare with what we count ourselves: sums exactly, times to the 5 % that the API promises."""
    statuses = Counter(row["status"] for row in rows)
    assert {status: figures[status] for status in ENDED} == {status: statuses[status] for status in ENDED}
    assert figures["answers"] == len(rows)
    if rows:
        assert figures["share_failed_or_cut"] == pytest.approx((statuses["failed"] + statuses["incomplete"]) / len(rows))
    ratings = Counter(row["rating"] for row in rows)
    assert (figures["good"], figures["bad"]) == (ratings["good"], ratings["bad"])
    for name in ("input_tokens", "output_tokens"):
        known = [row[name] for row in rows if row[name] is not None]
        assert figures[name] == (sum(known) if known else None)
    for name in ("time_to_first_token_ms", "duration_ms", "added_ms"):
        times = sorted(row[name] for row in rows if row[name] is not None)
        assert figures[name]["count"] == len(times)
        for share in (50, 95):
            exact = times[math.ceil(len(times) * share / 100) - 1] if times else None
            assert figures[name][f"p{share}"] == (exact if exact is None else pytest.approx(exact, rel=0.05, abs=1))
        if name == "added_ms":
            assert figures[name]["max"] == (pytest.approx(max(times)) if times else None)


@pytest.mark.parametrize("query", ["", "days=all", "model=mistral-small", "status=failed&status=incomplete", "reviewed=yes",
                                   "rating=good&source=chat", "q=the", "tag=code", "min_duration_ms=2000", "model=nobody"])
def test_each_figure_is_what_the_history_says(numbers: Service, query: str) -> None:
    found = stats(numbers, query)
    rows = listed(numbers, found["total"]["query"])
    is_right(found["total"], rows)
    for model in found["models"]:
        is_right(model, [row for row in rows if row["request_model"] == model["model"]])
    for step in found["steps"]:
        is_right(step, [row for row in rows if step["from"] <= row["created_at"][:10] <= step["to"]])
    assert sum(step["answers"] for step in found["steps"]) == sum(model["answers"] for model in found["models"]) == len(rows)


@one_database
def test_a_conversation_is_counted_by_its_own_index(numbers: Service) -> None:
    asked: list[tuple[str, Any]] = []
    settings = {"DATABASE_URL": numbers.database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"}
    with create_app(settings).app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *said: asked.append((said[2], said[3])))
        Counts(Filter.load(MultiDict({"conversation_id": "5"})), 10)
        db.engine.dispose()
    counting, values = next((words, values) for words, values in asked if "input_tokens" in words)
    with numbers.database.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {counting}", values).all()
    assert "ix_completions_conversation" in str(plan)


def test_each_query_lists_exactly_what_was_counted(numbers: Service) -> None:
    found = stats(numbers, "days=all&by=week&source=api")
    for group in (*found["steps"][-4:], *found["models"], *found["reasons"][:4], *found["tags"][:4]):
        assert len(listed(numbers, group["query"])) == group["answers"], group
    assert found["reasons"] and found["tags"] and found["steps"]


def test_a_day_begins_at_midnight_in_utc_and_one_without_answers_is_there_too(numbers: Service) -> None:
    found = stats(numbers, "from=2026-01-31&to=2026-02-02")
    days = [(step["from"], step["answers"]) for step in found["steps"]]
    assert days == [("2026-01-31", 1), ("2026-02-01", 1), ("2026-02-02", 0)]
    assert found["steps"][2]["time_to_first_token_ms"] == {"count": 0, "p50": None, "p95": None}
    cut = stats(numbers, "from=2026-01-31T23:59:59.9995Z&to=2026-02-01T00:00:00.001Z")
    assert cut["total"]["answers"] == 1 == len(listed(numbers, cut["total"]["query"]))


def test_the_period_is_the_last_days_to_today(numbers: Service) -> None:
    month, week = stats(numbers, ""), stats(numbers, "days=7")
    assert (len(month["steps"]), len(week["steps"])) == (30, 7)
    assert date.fromisoformat(week["to"]) - date.fromisoformat(week["from"]) == timedelta(6)
    assert week["steps"] == month["steps"][-7:]


def test_long_periods_are_shown_in_weeks_and_months(numbers: Service) -> None:
    weeks, months = stats(numbers, "days=all"), stats(numbers, "days=all&by=month")
    assert weeks["by"] == "week" and all(date.fromisoformat(step["from"]).weekday() == 0 for step in weeks["steps"][1:])
    assert months["by"] == "month" and all(step["from"].endswith("-01") for step in months["steps"][1:])
    assert weeks["total"] == months["total"] and weeks["from"] == "2026-01-31"
    for found in (weeks, months):
        assert all(later["from"] > sooner["to"] for sooner, later in zip(found["steps"], found["steps"][1:], strict=False))


@pytest.mark.parametrize(("query", "field"), [("days=8", "days"), ("by=year", "by"), ("days=7&from=2026-01-01", "days"),
                                              ("colour=red", "colour"), ("status=well", "status"), ("from=yesterday", "from")])
def test_a_wrong_parameter_is_named(client: Client, query: str, field: str) -> None:
    response = client.get(f"/stats?{query}")
    assert response.status_code == 422 and field in response.json()["errors"]


@pytest.mark.parametrize("query", ["from=2026-02-02&to=2026-02-01", "from=9999-01-01", "to=0001-01-01", "to=0001-01-01T00:00:00Z",
                                   "model=nobody"])
def test_a_period_without_answers_is_no_error(client: Client, query: str) -> None:
    found = client.get(f"/stats?{query}")
    assert found.status_code == 200 and found.json()["total"]["answers"] == 0
    assert "No answers to count" in client.page(f"/stats?{query}").text


@pytest.mark.parametrize("whole", ["yes", "no"])
def test_the_whole_can_be_asked_for_or_not(numbers: Service, whole: str) -> None:
    asked = numbers.client.get(f"/stats?days=all&whole={whole}").json()
    assert asked["is_complete"] and asked["total"] == numbers.client.get("/stats?days=all").json()["total"]


def test_an_answer_that_is_being_written_is_counted_apart(client: Client, upstream: Upstream) -> None:
    before = client.get("/stats?days=7").json()["total"]
    gate = Gate()
    stream = client.stream_text(upstream.script(delta("half"), wait_for(gate), finish(), done()).prompt)
    total = client.get("/stats?days=7").json()["total"]
    assert (total["in_progress"] - before["in_progress"], total["answers"] - before["answers"]) == (1, 0)
    gate.open()
    stream.text()
    total = client.get("/stats?days=7").json()["total"]
    assert (total["in_progress"] - before["in_progress"], total["answers"] - before["answers"]) == (0, 1)
