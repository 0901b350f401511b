"""Safe from the first day: who may ask from where, and what a browser may do with the answer."""
import re

import pytest
import requests

from llmstream import create_app
from llmstream.extensions import db
from tests.client import Client, TextStream
from tests.contract import is_problem, refusal
from tests.service import Database, Service
from tests.steps import answer
from tests.upstream import Upstream

FORBIDDEN = refusal("Host")
CSP = re.compile(r"default-src 'none'; script-src 'nonce-([\w-]{22})'; style-src 'nonce-\1'; img-src 'self' data:; "
                 r"font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
EVERYWHERE = [("GET", "/"), ("GET", "/history"), ("GET", "/history/1"), ("POST", "/stream"), ("GET", "/stream/1"),
              ("DELETE", "/stream/1"), ("POST", "/"), ("GET", "/no/such/page")]


def call(client: Client, method: str, path: str, headers: dict[str, str]) -> requests.Response:
    return client.call(method, path, headers=headers, json={"prompt": "hello"} if method == "POST" else None)


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
@pytest.mark.parametrize("headers", [
    {"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": "127.0.0.1.evil.example"}, {"Host": "169.254.169.254"},
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost.evil.example"}, {"Origin": "http://127.0.0.1:1"},
    {"Forwarded": "for=1.2.3.4"}, {"X-Forwarded-For": "1.2.3.4"}, {"X-Forwarded-Host": "localhost"},
    {"X-Forwarded-Proto": "https"}, {"Via": "1.1 proxy"}, {"X-Real-IP": "1.2.3.4"}, {"CF-Connecting-IP": "1.2.3.4"}], ids=str)
def test_foreign_hosts_origins_and_proxies_are_refused(
        client: Client, database: Database, upstream: Upstream, method: str, path: str, headers: dict[str, str]) -> None:
    before = (database.count(), len(upstream.calls))
    is_problem(call(client, method, path, headers), FORBIDDEN)
    assert (database.count(), len(upstream.calls)) == before


@pytest.mark.parametrize(("address", "expected"), [
    ("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("192.0.2.7", 403), ("::ffff:192.0.2.7", 403), ("", 403)])
def test_without_a_login_other_machines_are_refused_wherever_we_really_listen(
        database: Database, address: str, expected: int) -> None:
    app = create_app({"DATABASE_URL": database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"})
    told = app.test_client().get("/history?limit=1", environ_base={"REMOTE_ADDR": address})
    with app.app_context():
        db.engine.dispose()
    assert told.status_code == expected


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_sends_for_another_site_changes_nothing(client: Client, database: Database, site: str) -> None:
    before = database.count()
    is_problem(call(client, "POST", "/stream", {"Sec-Fetch-Site": site}), FORBIDDEN)
    assert database.count() == before
    assert client.get("/history", headers={"Sec-Fetch-Site": site}).status_code == 200, "a link may be followed"


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "localhost"])
def test_our_own_hosts_are_served(service: Service, host: str) -> None:
    assert service.client.get("/history", headers={"Host": host.format(port=service.port)}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_our_own_origin_may_ask(service: Service, upstream: Upstream, host: str) -> None:
    own = {"Origin": f"http://{host}:{service.port}", "Host": f"{host}:{service.port}"}
    assert service.client.stream_text(upstream.script(*answer("yes")).prompt, headers=own).text() == "yes"


def test_a_request_without_a_host_is_refused(service: Service) -> None:
    assert service.talk(b"GET /history HTTP/1.0\r\n\r\n").split()[1] in (b"400", b"403")
    both = f"GET http://evil.example/history HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nConnection: close\r\n\r\n"
    assert service.talk(both.encode()).split()[1] in (b"200", b"400", b"403")


def test_every_answer_tells_the_browser_what_it_may_not_do(client: Client, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(*answer("yes")).prompt)
    stream.text()
    answers = [stream.response, client.reattach(stream.completion_id), client.stop(stream.completion_id), client.ask("")]
    answers += [client.get(path) for path in ("/history", f"/history/{stream.completion_id}", "/no/such/page")]
    answers += [client.page(path) for path in ("/", "/history", f"/history/{stream.completion_id}", "/no/such/page")]
    answers += [client.ask("hello", headers={"Host": "evil.example"}), client.ask("hello", accept="text/event-stream")]
    nonces = set()
    for response in answers:
        told = response.headers
        name = f"{response.request.method} {response.url} {response.status_code}"
        policy = CSP.fullmatch(told["Content-Security-Policy"])
        assert policy, name
        nonces.add(policy[1])
        assert told["X-Content-Type-Options"] == "nosniff", name
        assert "Set-Cookie" not in told, name
        assert "*" not in told.get("Access-Control-Allow-Origin", ""), name
    assert len(nonces) == len(answers), "a nonce came twice"


def test_pages_hold_nothing_inline(client: Client, upstream: Upstream) -> None:
    stream = TextStream(client.ask("hello"))
    stream.text()
    for path in ("/", "/history", f"/history/{stream.completion_id}", "/no/such/page"):
        page = client.page(path).text.lower()
        for inline in ("<style", " style=", " onclick=", " onload=", "javascript:"):
            assert inline not in page, f"{path} has {inline}"
        for script in re.findall(r"<script[^>]*>.*?</script>", page, re.S):
            assert " src=" in script and script.endswith("></script>"), f"{path} has {script[:80]}"


def test_a_get_never_asks_the_model(client: Client, upstream: Upstream) -> None:
    script = upstream.script(*answer("never"))
    for path in ("/", "/stream", "/history"):
        client.get(path, params={"prompt": script.prompt})
    assert not script.calls
