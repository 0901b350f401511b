"""Bad input: each gets a clear problem document, nothing is stored, and the model is not asked."""
import json
import socket
from typing import Any

import pytest

from tests.client import Client
from tests.contract import is_problem, refusal
from tests.service import Database, Service
from tests.upstream import Upstream

JSON = {"Content-Type": "application/json"}
NOT_JSON, NOT_FOUND, TOO_LARGE, WRONG_KIND, WRONG_FIELD = (refusal(beginning) for beginning in (
    "The body is not JSON", "No such", "The body is larger", "Content-Type", "A field"))


@pytest.fixture(autouse=True)
def nothing_happens(database: Database, upstream: Upstream) -> Any:
    before = (database.count(), database.value("SELECT count(*) FROM conversations"), len(upstream.calls))
    yield
    after = (database.count(), database.value("SELECT count(*) FROM conversations"), len(upstream.calls))
    assert after == before, "something was stored, or the model was asked"


BROKEN_BODIES = {
    "nothing": b"",
    "not JSON": b"prompt=hello",
    "half JSON": b'{"prompt": "hel',
    "JSON and more": b'{"prompt": "hello"} {}',
    "single quotes": b"{'prompt': 'hello'}",
    "no UTF-8": b'{"prompt": "caf\xe9"}',
    "UTF-16": '{"prompt": "hello"}'.encode("utf-16"),
    "100,000 open brackets": b'{"prompt": ' + b"[" * 100_000,
    "deep and well-formed": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_body_that_is_not_json_is_refused(client: Client, name: str) -> None:
    is_problem(client.call("POST", "/stream", data=BROKEN_BODIES[name], headers=JSON), NOT_JSON)


WRONG_KINDS = [
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "json"]


@pytest.mark.parametrize("kind_of_content", WRONG_KINDS)
def test_another_content_type_is_refused(client: Client, kind_of_content: str | None) -> None:
    response = client.call("POST", "/stream", data=b'{"prompt": "hello"}', headers={"Content-Type": kind_of_content})
    is_problem(response, WRONG_KIND)


WRONG_FIELDS: dict[str, tuple[Any, str]] = {
    "no prompt": ({}, "prompt"),
    "an empty prompt": ({"prompt": ""}, "prompt"),
    "a blank prompt": ({"prompt": " \t\r\n\u00a0\u2003 "}, "prompt"),
    "a number": ({"prompt": 42}, "prompt"),
    "true": ({"prompt": True}, "prompt"),
    "a list": ({"prompt": ["hello"]}, "prompt"),
    "an object": ({"prompt": {"text": "hello"}}, "prompt"),
    "null": ({"prompt": None}, "prompt"),
    "NUL": ({"prompt": "hel\0lo"}, "prompt"),
    "a lone surrogate": ({"prompt": "hel\ud83dlo"}, "prompt"),
    "a low surrogate first": ({"prompt": "\ude00\ud83d"}, "prompt"),
    "an unknown field": ({"prompt": "hello", "promt": "hello"}, "promt"),
    "messages": ({"prompt": "hello", "messages": []}, "messages"),
    "a base URL": ({"prompt": "hello", "base_url": "http://evil.example"}, "base_url"),
    "a blank system": ({"prompt": "hello", "system": 5}, "system"),
    "NUL in system": ({"prompt": "hello", "system": "\0"}, "system"),
    "a surrogate in system": ({"prompt": "hello", "system": "\udfff"}, "system"),
    "temperature below": ({"prompt": "hello", "temperature": -0.1}, "temperature"),
    "temperature above": ({"prompt": "hello", "temperature": 2.1}, "temperature"),
    "temperature in words": ({"prompt": "hello", "temperature": "hot"}, "temperature"),
    "temperature as a string": ({"prompt": "hello", "temperature": "0.5"}, "temperature"),
    "temperature true": ({"prompt": "hello", "temperature": True}, "temperature"),
    "temperature NaN": ({"prompt": "hello", "temperature": float("nan")}, "temperature"),
    "temperature infinite": ({"prompt": "hello", "temperature": float("inf")}, "temperature"),
    "no tokens": ({"prompt": "hello", "max_tokens": 0}, "max_tokens"),
    "negative tokens": ({"prompt": "hello", "max_tokens": -5}, "max_tokens"),
    "too many tokens": ({"prompt": "hello", "max_tokens": 1_000_001}, "max_tokens"),
    "half a token": ({"prompt": "hello", "max_tokens": 1.5}, "max_tokens"),
    "tokens as a string": ({"prompt": "hello", "max_tokens": "60"}, "max_tokens"),
    "a conversation in words": ({"prompt": "hello", "conversation_id": "the first"}, "conversation_id"),
    "conversation true": ({"prompt": "hello", "conversation_id": True}, "conversation_id"),
    "conversation 1.5": ({"prompt": "hello", "conversation_id": 1.5}, "conversation_id"),
    "a model that is not offered": ({"prompt": "hello", "model": "gpt-99"}, "model"),
    "a number as model": ({"prompt": "hello", "model": 5}, "model"),
    "regenerate in words": ({"regenerate": "the last"}, "regenerate"),
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_wrong_field_is_refused_by_name(client: Client, name: str) -> None:
    body, field = WRONG_FIELDS[name]
    problem = is_problem(client.call("POST", "/stream", data=json.dumps(body), headers=JSON), WRONG_FIELD)
    assert field in problem["errors"], problem


@pytest.mark.parametrize("body", [b"[]", b'"hello"', b"5", b"null", b'[{"prompt": "hello"}]'])
def test_json_that_is_no_object_is_refused(client: Client, body: bytes) -> None:
    is_problem(client.call("POST", "/stream", data=body, headers=JSON), WRONG_FIELD)


@pytest.mark.parametrize("body", [
    b'{"prompt": "hello", "max_tokens": 1' + b"0" * 5000 + b"}",
    b'{"prompt": "hello", "temperature": 1e999}',
    b'{"prompt": "hello", "conversation_id": 1' + b"0" * 5000 + b"}",
])
def test_numbers_beyond_all_bounds_are_refused(client: Client, body: bytes) -> None:
    response = client.call("POST", "/stream", data=body, headers=JSON)
    assert response.status_code in (NOT_JSON, WRONG_FIELD), response.text
    is_problem(response, response.status_code)


@pytest.mark.parametrize("number", [999_999_999, -1, 0, 2**31, 2**63, 10**30])
def test_an_unknown_conversation_is_not_found(client: Client, number: int) -> None:
    response = client.ask("hello", conversation_id=number)
    assert response.status_code == NOT_FOUND or ((number < 1 or number >= 2**63) and response.status_code == WRONG_FIELD)
    is_problem(response, response.status_code)


def test_a_prompt_of_one_megabyte_is_too_large(client: Client) -> None:
    is_problem(client.ask("x" * 1_000_000), TOO_LARGE)


def test_a_large_body_without_a_length_is_too_large_too(client: Client) -> None:
    pieces = iter([b'{"prompt": "', *[b"x" * 10_000] * 100, b'"}'])
    is_problem(client.call("POST", "/stream", data=pieces, headers=JSON), TOO_LARGE)


def test_a_length_that_is_a_lie_is_not_waited_for(service: Service) -> None:
    """A body announced as 10 GB is refused at once."""
    answer = service.talk(b"POST /stream HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                          b"Content-Length: 10000000000\r\n\r\n{" % service.port)
    assert answer.split()[1] == b"413"


@pytest.mark.parametrize(("framing", "body"), [
    (b"Content-Length: 60", b'{"prompt": "shorter than was said"}'), (b"Transfer-Encoding: chunked", b"zz\r\n")])
def test_a_body_that_is_cut_short_or_misframed_is_refused(service: Service, framing: bytes, body: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(b"POST /stream HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % service.port)
        connection.sendall(framing + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).split()[1] == b"400"


@pytest.mark.parametrize(("method", "path"), [
    ("PUT", "/stream"), ("GET", "/stream"), ("PATCH", "/stream/1"), ("POST", "/history")])
def test_another_method_is_refused(client: Client, method: str, path: str) -> None:
    response = client.call(method, path)
    is_problem(response, refusal("The method"))
    assert response.headers["Allow"]


def test_what_is_no_page_is_not_found(client: Client) -> None:
    is_problem(client.get("/no/such/page"), NOT_FOUND)


def test_a_browser_gets_the_error_as_a_page(client: Client) -> None:
    response = client.page("/no/such/page")
    assert response.status_code == NOT_FOUND
    assert response.headers["Content-Type"].startswith("text/html")
    assert "<h1" in response.text
