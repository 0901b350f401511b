"""docs/api.md as the oracle: its tables, and the check that an answer ends as the table of endings says."""
from dataclasses import dataclass
from functools import cache
from typing import Any

import requests

from tests.client import Client, TextStream, eventually
from tests.service import ROOT
from tests.upstream import Script


def table(heading: str, first: str, document: str = "api.md") -> list[dict[str, str]]:
    """The rows of the table under this heading whose first column is called `first`: a dict a row, without backticks."""
    text = (ROOT / "docs" / document).read_text()
    lines = text[text.index(f" {heading}\n") :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    names = _cells(lines[start])
    rows = []
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, _cells(line), strict=True)))
    assert rows, f"the table {first!r} under {heading!r} has no rows"
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("`", "").strip().strip("|").split("|")]


@dataclass(frozen=True)
class Promise:
    """One row of the table of endings."""

    what: str
    status: str
    error_type: str | None
    before: int
    text: str
    event: str


@cache
def endings() -> dict[str | None, Promise]:
    """The table of endings by error_type; None is the completed answer."""
    promises = {}
    for row in table("How an answer ends", "what happened"):
        error_type = None if row["error_type"] == "-" else row["error_type"]
        promises[error_type] = Promise(
            row["what happened"], row["status"], error_type, int(row["before"]), row["text"], row["event"])
    return promises


def refusal(beginning: str) -> int:
    """The status that the table of errors gives for what is wrong."""
    (row,) = [row for row in table("Errors", "what is wrong") if row["what is wrong"].startswith(beginning)]
    return int(row["status"])


def is_problem(response: requests.Response, status: int) -> dict[str, Any]:
    """Check that this is the problem document of docs/api.md with this status; returns it."""
    assert response.status_code == status, f"{response.status_code} instead of {status}: {response.text}"
    assert response.headers["Content-Type"].startswith("application/problem+json"), response.headers
    problem = response.json()
    assert set(problem) >= {"type", "title", "status", "detail"}, problem
    assert problem["status"] == status
    assert len(problem["detail"]) > 10, f"the detail says too little: {problem}"
    for ours in ("Traceback", "sqlalchemy", "psycopg", "sqlite3", "/llmstream/"):
        assert ours not in response.text, f"the problem tells of our insides: {problem}"
    if status == 422 and "error_type" not in problem:
        sentences = [sentence for field in problem["errors"].values() for sentence in field]
        assert sentences and all(isinstance(sentence, str) for sentence in sentences), problem
    if status in (429, 503):
        assert int(response.headers["Retry-After"]) >= 1
    return problem


def assert_ends(client: Client, script: Script, error_type: str | None, text: str) -> dict[str, Any]:
    """Ask for this script as text and as events; both and the row must end as docs/api.md says. Returns the row of the first.

    :param error_type: the row of the table of endings; None for a completed answer
    :param text: the answer, or what of it had come before it went wrong
    """
    promise = endings()[error_type]
    row = _text_ends(client, script, promise, text)
    _events_end(client, script, promise, text)
    return row


def _text_ends(client: Client, script: Script, promise: Promise, text: str) -> dict[str, Any]:
    response = client.ask(script.prompt)
    completion_id = int(response.headers["Completion-Id"])
    _text_is(response, promise, text)
    row = row_is(client, completion_id, promise, text)
    _text_is(client.reattach(completion_id), promise, text)
    return row


def _text_is(response: requests.Response, promise: Promise, text: str) -> None:
    if not text and promise.error_type:
        problem = is_problem(response, promise.before)
        assert problem["error_type"] == promise.error_type
        assert problem["completion_id"] == int(response.headers["Completion-Id"])
        return
    stream = TextStream(response)
    assert stream.rest().decode() == text
    assert stream.cut == {"cut": True, "clean end": False}[promise.text]


def _events_end(client: Client, script: Script, promise: Promise, text: str) -> None:
    for stream in (first := client.stream_events(script.prompt), client.reattach_events(first.completion_id)):
        end = stream.end()
        assert not stream.cut
        assert [event.name for event in stream.events if event.name != "delta"] in (["created", end.name], [end.name])
        assert stream.deltas() == text
        assert (end.name, end.data["status"], end.data["error_type"]) == (promise.event, promise.status, promise.error_type)
        assert set(end.data) == {"status", "reason", "error_type", "finish_reason", "usage"}
        assert set(end.data["usage"]) == {"input_tokens", "output_tokens"}
    row_is(client, first.completion_id, promise, text)


def row_is(client: Client, completion_id: int, promise: Promise, text: str) -> dict[str, Any]:
    """The completion in the history says the same as the stream."""
    row = client.finished(completion_id)
    assert (row["status"], row["error_type"], row["response"]) == (promise.status, promise.error_type, text)
    assert row["reason"] and row["reason"].endswith("."), f"the reason is no sentence: {row['reason']!r}"
    assert row["duration_ms"] >= 0
    assert (row["time_to_first_token_ms"] is None) == (text == "")
    return row


def delivery_of(client: Client, completion_id: int) -> tuple[str, int]:
    """What reached the client who asked; it is stored a moment after the answer."""
    row = eventually(lambda: (row := client.history(completion_id))["delivery"] and row, 5, "the note of the delivery")
    return row["delivery"], row["delivered_bytes"]
