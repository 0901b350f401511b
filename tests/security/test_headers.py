"""What every kind of response tells browsers and caches, whatever its status."""

import pytest

from tests.people import PAGE, Team
from tests.security.smuggling import post, send
from tests.service import one_database
from tests.steps import answer, status
from tests.upstream import Upstream

TOLD = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin"}
CALLS = {
    "/": 200,
    "/history": 200,
    "/export": 200,
    "/delete": 200,
    "/admin": 200,
    "/login": 200,
    "/history.csv": 200,
    "/views": 200,
    "/static/js/chat.js": 200,
    "/static/css/base.css": 200,
    "/static/no.js": 404,
    "/no/such/page": 404,
    "/history/4000000000": 404,
    "/history?status=odd": 422,
    "/stream": 405,
    "/openapi.json": 200,
}


@one_database
@pytest.mark.parametrize("name", ["If-Modified-Since", "If-Unmodified-Since", "If-Range"])
def test_a_date_that_cannot_be_counts_as_not_sent(team: Team, name: str) -> None:
    odd = {name: "Mon, 01 Jan 99999999999999 00:00:00 GMT", "Range": "bytes=0-9"}
    assert team.service.client.get("/static/js/chat.js", headers=odd).status_code in (200, 206)


@one_database
@pytest.mark.parametrize("accept", [{}, PAGE], ids=["program", "browser"])
@pytest.mark.parametrize("path", CALLS)
def test_each_kind_of_response_has_the_headers(team: Team, path: str, accept: dict[str, str]) -> None:
    for response in (
        team.by("ana").get(path, headers=accept),
        team.service.client.get(path, headers=accept, allow_redirects=False),
    ):
        told = response.headers
        assert response.status_code in (CALLS[path], 303, 401, 302), response.status_code
        assert {name: told.get(name) for name in TOLD} == TOLD, response.status_code
        assert (
            told["Content-Security-Policy"].startswith("default-src 'none'")
            and "unsafe" not in told["Content-Security-Policy"]
        )
        assert "camera=()" in told["Permissions-Policy"] and "Access-Control-Allow-Origin" not in told


@one_database
@pytest.mark.parametrize(
    "path", [path for path in CALLS if not path.startswith("/static/js") and not path.startswith("/static/css")]
)
def test_what_a_login_shows_is_kept_by_no_cache(team: Team, path: str) -> None:
    for response in (team.by("ana").get(path), team.ana.get(path)):
        assert "no-store" in response.headers["Cache-Control"], path


@one_database
def test_a_failed_answer_and_a_stream_have_them_too(team: Team, upstream: Upstream) -> None:
    refused = team.by("ana").ask(upstream.script(status(500)).prompt)
    stream = team.by("ana").stream_text(upstream.script(*answer("yes")).prompt)
    assert stream.text() == "yes" and refused.status_code == 502
    for response in (refused, stream.response):
        assert {name: response.headers.get(name) for name in TOLD} == TOLD and "no-store" in response.headers[
            "Cache-Control"
        ]


@one_database
def test_what_never_reaches_us_says_nothing_of_ours(team: Team) -> None:
    received = send(team.service.port, post(b"Content-Length: -5\r\n")).received
    assert b"Traceback" not in received and b"llmstream" not in received
