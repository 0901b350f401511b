"""The filters of the history, each alone and together, the same on both databases and on every list."""
import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from llmstream.filters import windows
from tests.client import Client, eventually
from tests.contract import is_problem, table
from tests.service import Database

DAY = datetime(2024, 2, 29, tzinfo=UTC)  # no other test's rows are so old
MS = timedelta(milliseconds=1)
ROWS: dict[str, dict[str, Any]] = {
    "before": {"created_at": DAY - MS},
    "midnight": {"created_at": DAY, "status": "failed", "duration_ms": 0},
    "noon": {"created_at": DAY + timedelta(hours=12), "request_model": "model b/2", "source": "api", "duration_ms": 1000},
    "good": {"created_at": DAY + timedelta(hours=13), "rating": "good", "reviewed_at": DAY, "tags": ["a tag", "other"]},
    "bad": {"created_at": DAY + timedelta(hours=14), "rating": "bad", "reviewed_at": DAY, "tags": ["other"],
            "reasons": ["made up"]},
    "thumb": {"created_at": DAY + timedelta(hours=15), "rating": "bad", "owner": "böb & co"},
    "noted": {"created_at": DAY + timedelta(hours=16), "reviewed_at": DAY, "reasons": ["made up", "made up", "tone"], "talk": 2},
    "running": {"created_at": DAY + timedelta(hours=17), "status": "cancelled", "duration_ms": None, "talk": 2},
    "last": {"created_at": DAY + timedelta(days=1) - MS, "status": "incomplete", "source": "api", "duration_ms": 60_000},
    "after": {"created_at": DAY + timedelta(days=1)},
}
ALL = " ".join(ROWS)
PLAIN = {"status": "completed", "owner": "filter-tests", "source": "chat", "request_model": "model-a", "prompt": "A prompt",
         "parameters": {}, "provider_name": "none", "response": "An answer", "dropped_turns": 0, "duration_ms": 500,
         "worker_id": "none", "epoch": 0, "stop_requested": False, "body_hash": ""}


@pytest.fixture(scope="module")
def ids(database: Database) -> Iterator[dict[str, int]]:
    """ROWS in the database, in this order."""
    tables = sa.MetaData()
    tables.reflect(database.engine, only=["conversations", "completions", "tags", "reviews"])
    made: dict[str, int] = {}
    with database.engine.begin() as connection:
        def add(table: str, **values: Any) -> int:
            return connection.execute(tables.tables[table].insert().values(values)).inserted_primary_key[0]

        talks = [add("conversations", owner="filter-tests", title="", created_at=DAY) for _ in range(3)]
        for name, row in ROWS.items():
            row = PLAIN | {"conversation_id": talks[row.get("talk", 1)], "idempotency_key": f"filters {name}"} | row
            own = {column: value for column, value in row.items() if column not in ("tags", "reasons", "talk")}
            made[name] = add("completions", **own)
            for tag in row.get("tags", []):
                add("tags", completion_id=made[name], name=tag, tagged_by="x", created_at=DAY)
            for reason in row.get("reasons", []):
                add("reviews", completion_id=made[name], reviewer="x", role="reviewer", reason=reason, created_at=DAY)
    yield made
    with database.engine.begin() as connection:
        connection.execute(tables.tables["completions"].delete().where(tables.tables["completions"].c.id.in_(made.values())))


def found(client: Client, ids: dict[str, int], query: str) -> str:
    """The names of our rows that this finds, oldest first; asked in pages of three."""
    names, seen, before = {completion_id: name for name, completion_id in ids.items()}, [], None
    while True:
        page = client.get(f"/history?limit=3&{query}" + (f"&before={before}" if before else ""))
        assert page.status_code == 200, page.text
        seen += [row["id"] for row in page.json()["data"]]
        before = page.json()["next_before"]
        if not before or before <= min(ids.values()):
            break
    assert seen == sorted(set(seen), reverse=True)
    return " ".join(names[i] for i in reversed(seen) if i in names)


HERE = "from=2024-02-28&to=2024-03-01"


@pytest.mark.parametrize(("query", "names"), [
    ("", ALL), ("status=failed", "midnight"), ("status=failed&status=incomplete", "midnight last"),
    ("model=model b/2", "noon"), ("source=api", "noon last"), ("source=api&source=chat", ALL),
    ("rating=good", "good"), ("rating=good&rating=bad", "good bad thumb"), ("rating=bad&rating=none&reviewed=yes", "bad noted"),
    ("rating=none", "before midnight noon noted running last after"), ("reviewed=yes", "good bad noted"),
    ("reviewed=no&rating=bad", "thumb"), ("tag=other", "good bad"), ("tag=other&tag=a tag", "good"), ("tag=none", ""),
    ("reason=made up", "bad noted"), ("reason=made up&reason=tone", "bad noted"), ("reason=tone&rating=bad", ""),
    ("owner=böb %26 co", "thumb"), ("owner=böb %26 co&owner=filter-tests", ALL), ("owner=böb", ""),
    ("min_duration_ms=1000", "noon last"), ("max_duration_ms=0", "midnight"),
    ("min_duration_ms=1&max_duration_ms=1000&source=api", "noon"),
    ("status=completed&source=chat&rating=bad&tag=other&reviewed=yes&reason=made up&model=model-a&min_duration_ms=500", "bad"),
    ("status=&model=&tag=&q=&reviewed=&min_duration_ms=&conversation_id=", ALL)])
def test_each_filter_finds_its_rows_alone_and_with_others(client: Client, ids: dict[str, int], query: str, names: str) -> None:
    assert found(client, ids, f"{HERE}&{query}") == names


@pytest.mark.parametrize(("query", "names"), [
    ("from=2024-02-29&to=2024-02-29", "midnight noon good bad thumb noted running last"), ("to=2024-02-28", "before"),
    ("from=2024-03-01&to=2024-03-01", "after"), ("from=2024-02-29T12:00:00Z&to=2024-02-29T13:00:00Z", "noon"),
    ("from=2024-02-29T13:00:00%2B01:00&to=2024-02-29T12:00:00.001Z", "noon"),
    ("from=2024-02-29T13:00:00+01:00&to=2024-02-29t12:00:00.001z", "noon"), ("from=2024-03-02&to=2024-02-01", ""),
    ("from=0001-01-01&to=2024-02-29T00:00:00Z", "before"), ("from=9999-12-31", ""),
    ("from=2024-03-01&to=9999-12-31", "after")])
def test_days_are_whole_and_in_utc_and_instants_are_exact(client: Client, ids: dict[str, int], query: str, names: str) -> None:
    assert found(client, ids, query) == names


def test_a_conversation_is_a_filter(client: Client, ids: dict[str, int]) -> None:
    conversation = client.history(ids["noted"])["conversation_id"]
    assert found(client, ids, f"conversation_id={conversation}") == "noted running"


def test_text_goes_with_every_other_filter(client: Client, ids: dict[str, int]) -> None:
    eventually(lambda: found(client, ids, f"{HERE}&q=prompt") == ALL, 5, "indexing")
    assert found(client, ids, f"{HERE}&q=answer&tag=other&rating=bad&reason=made up") == "bad"


@pytest.mark.parametrize("query", [
    "status=odd", "status=failed&status=odd", "source=web", "rating=ok", "reviewed=maybe", "reviewed=yes&reviewed=no",
    "before=9&before=8",
    "from=today", "from=2024-02-30", "from=20240229", "from=2024-02-29T12:00:00", "from=2024-02-29 12:00:00Z",
    "to=0001-01-01T00:00:00+23:00", "min_duration_ms=x", "min_duration_ms=-1", "max_duration_ms=1.5",
    "max_duration_ms=99999999999", "conversation_id=0", "conversation_id=x", "tag=a%00b", "model=" + "m" * 201, "owner=%00",
    "reason=%00", "q=a%00b", "q=" + "a" * 501, "unknown=1", "colour=red&status=failed",
    "&".join(f"tag={i}" for i in range(51))])
def test_what_is_wrong_is_refused_by_name(client: Client, query: str) -> None:
    errors = is_problem(client.get(f"/history?{query}"), 422)["errors"]
    (field,) = errors
    assert field in query.split("=")[0] and all(isinstance(sentence, str) for sentence in errors[field])
    page = client.page(f"/history?{query}")
    assert page.status_code == 422 and "text/html" in page.headers["Content-Type"]


def test_an_address_of_many_long_filters_is_answered(client: Client) -> None:
    query = "&".join(f"tag={i:0>200}" for i in range(39))
    assert len(query) > 7900 and client.get(f"/history?{query}").json()["data"] == []


def test_the_page_shows_what_is_chosen_and_leads_on_with_it(client: Client, ids: dict[str, int]) -> None:
    page = html.unescape(client.page(f"/history?{HERE}&owner=filter-tests&limit=2").text)
    assert f"/history/{ids['after']}" in page and f"/history/{ids['midnight']}" not in page
    assert f"owner=filter-tests&limit=2&before={ids['last']}" in page


def test_windows_cover_all_ids_once_in_both_directions() -> None:
    for upwards in (False, True):
        parts = sorted(windows(5, 1_000_000, upwards))
        assert parts[0][0] == 5 and parts[-1][1] == 1_000_000
        assert all(one[1] == other[0] for one, other in pairwise(parts))
    assert list(windows(7, 7)) == []


def test_every_filter_is_in_the_table_of_the_api_in_its_description_and_in_the_form(client: Client, ids: dict[str, int]) -> None:
    documented = {name for row in table("Filters", "parameter") for name in re.findall(r"\w+", row["parameter"])}
    parameters = client.get("/openapi.json").json()["paths"]["/history"]["get"]["parameters"]
    described = {parameter["name"] for parameter in parameters if parameter["in"] == "query"} - {"limit", "before"}
    form = client.page("/history").text.partition('data-part="filters"')[2].partition("</form>")[0]
    assert documented == described == set(re.findall(r'<input[^>]* name="(\w+)"', form))
