"""The tables of docs/api.md and the program say the same."""
from llmstream.endings import ENDINGS
from tests.client import Client
from tests.contract import endings, table
from tests.upstream import Upstream


def test_the_table_of_endings_is_the_one_in_the_code() -> None:
    documented = {name: (promise.status, promise.before) for name, promise in endings().items() if name}
    assert documented == {name: (kind.status, kind.http) for name, kind in ENDINGS.items()}


def test_each_reason_is_a_sentence_that_says_what_happened() -> None:
    for name, kind in ENDINGS.items():
        assert kind.reason[0].isupper() and kind.reason.endswith("."), name


def test_only_a_completed_answer_ends_cleanly() -> None:
    for promise in endings().values():
        assert (promise.text == "clean end") == (promise.status == "completed") == (promise.before == 200), promise
        assert promise.event == promise.status


def test_the_history_gives_the_documented_fields_and_no_others(client: Client, upstream: Upstream) -> None:
    documented = {name for row in table("History", "field") for name in row["field"].split(", ")}
    completion_id = client.stream_text("Hello").completion_id
    item = client.finished(completion_id)
    assert set(item) - {"conversation"} == documented
    assert set(client.history(limit=1)["data"][0]) == documented
