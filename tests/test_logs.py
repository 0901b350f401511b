"""The log is JSON, a line an event; nothing that anybody sent can break a line, colour a terminal or be read in it."""
import json
import logging
import sys

from llmstream.logs import JsonLines
from tests.client import eventually
from tests.people import Team
from tests.steps import answer
from tests.upstream import Upstream


def test_whatever_is_logged_stays_on_its_line() -> None:
    odd = "a\r\nb\x1b[31m\x00\x7f\x85\u2028\u202e\ud800 {} %s"
    try:
        raise ValueError(odd)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "path %s", (odd,), sys.exc_info())
    line = JsonLines().format(record)
    assert line.isascii() and line.isprintable()
    assert json.loads(line)["message"] == f"path {odd}" and "ValueError" in json.loads(line)["traceback"]


def test_a_failed_statement_is_logged_without_what_it_held(team: Team, upstream: Upstream) -> None:
    stream = team.by("eve").stream_text(upstream.script(*answer("first")).prompt)
    stream.text()
    broken = "ALTER TABLE reviews RENAME TO away"
    team.database.execute(broken)
    try:
        sent = {"rating": "good", "note": "a note that nobody should read in a log"}
        failed = team.by("rita").call("POST", f"/history/{stream.completion_id}/reviews", json=sent)
    finally:
        team.database.execute("ALTER TABLE away RENAME TO reviews")
    assert failed.status_code in (500, 503) and "reviews" not in failed.json()["detail"]
    lines = eventually(lambda: [line for line in team.service.log().splitlines() if "reviews" in line], 5)
    assert all(json.loads(line)["level"] in ("warning", "error") for line in lines)
    assert "nobody should read" not in team.service.log()
