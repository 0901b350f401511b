"""An HTTP/1.0 client cannot see a cut, so it gets the whole answer at its end, or an error."""
import json

from tests.client import Client
from tests.service import Service, one_database
from tests.steps import answer, close, delta
from tests.upstream import Upstream

pytestmark = one_database


def ask(service: Service, prompt: str, version: str = "1.0") -> tuple[bytes, bytes]:
    body = json.dumps({"prompt": prompt}).encode()
    head = f"POST /stream HTTP/{version}\r\nHost: 127.0.0.1:{service.port}\r\nContent-Type: application/json\r\n"
    received = service.talk(head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    headers, _, content = received.partition(b"\r\n\r\n")
    return headers, content


def get(service: Service, path: str) -> tuple[bytes, bytes]:
    received = service.talk(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{service.port}\r\n\r\n".encode())
    headers, _, content = received.partition(b"\r\n\r\n")
    return headers, content


def test_it_gets_the_whole_answer_with_its_length(service: Service, upstream: Upstream) -> None:
    headers, content = ask(service, upstream.script(*answer("héllo", " wörld")).prompt)
    assert headers.startswith(b"HTTP/1.1 200") or headers.startswith(b"HTTP/1.0 200")
    assert content.decode() == "héllo wörld"
    assert b"\r\nContent-Length: 13" in headers
    assert b"chunked" not in headers.lower()


def test_it_gets_an_error_where_others_see_a_cut(service: Service, client: Client, upstream: Upstream) -> None:
    headers, content = ask(service, upstream.script(delta("half of "), close()).prompt)
    assert headers.split()[1] == b"502"
    problem = json.loads(content)
    assert problem["error_type"] == "upstream_cut"
    assert client.history(problem["completion_id"])["response"] == "half of "
    headers, content = get(service, f"/stream/{problem['completion_id']}")
    assert headers.split()[1] == b"502"


def test_it_gets_the_rest_of_a_finished_answer(service: Service, client: Client, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(*answer("one ", "two")).prompt)
    stream.text()
    headers, content = get(service, f"/stream/{stream.completion_id}?after=4")
    assert headers.split()[1] == b"200"
    assert content == b"two"
    assert b"\r\nContent-Length: 3" in headers
