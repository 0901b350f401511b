"""A client that leaves costs nothing: the answer is written to its end, and the row says what was delivered."""
import socket
import struct
from collections.abc import Callable

import pytest

from tests.client import Client, eventually
from tests.contract import delivery_of
from tests.exchange import Gate
from tests.service import Service
from tests.steps import close, delta, done, finish, wait_for
from tests.upstream import Upstream


def test_the_answer_is_finished_and_kept(client: Client, upstream: Upstream) -> None:
    gate, more = Gate(), [delta(f"piece {i} ") for i in range(50)]
    script = upstream.script(delta("seen "), wait_for(gate), more, finish(), done())
    streams = [client.stream_text(script.prompt), client.stream_events(script.prompt)]
    for stream in streams:
        stream.read_until("seen ")
        stream.leave()
    gate.open()
    for stream in streams:
        row = client.finished(stream.completion_id)
        assert (row["status"], row["response"]) == ("completed", "seen " + "".join(f"piece {i} " for i in range(50)))


def test_the_row_says_that_the_client_left(client: Client, upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(delta("seen "), wait_for(gate), [delta("x" * 1000) for _ in range(200)], finish(), done())
    stream = client.stream_text(script.prompt)
    stream.read_until("seen ")
    stream.leave()
    gate.open()
    row = client.finished(stream.completion_id)
    assert (row["status"], len(row["response"])) == ("completed", 200_005)
    delivery, delivered_bytes = delivery_of(client, stream.completion_id)
    assert delivery == "left"
    assert 5 <= delivered_bytes < 200_005


def test_who_leaves_before_the_first_text_still_gets_an_answer_in_the_history(service: Service, upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(wait_for(gate), delta("late"), finish(), done())
    with service.connect() as sock:
        ask(service, sock, script.prompt)
        script.call()
    gate.open()
    row = service.client.finished(service.client.history(limit=1)["data"][0]["id"])
    assert (row["prompt"], row["status"], row["response"]) == (script.prompt, "completed", "late")


@pytest.mark.alone
def test_a_broken_connection_is_let_go_at_the_first_look_while_the_model_is_silent(
        start: Callable[..., Service], upstream: Upstream) -> None:
    service = start(WEB_CONCURRENCY=1, LLMSTREAM_READER_TIMEOUT_S=3)  # a look every 2 s, a second one after 4
    gate = Gate()
    script = upstream.script(delta("seen "), wait_for(gate), delta("rest"), finish(), done())
    sock = service.connect()
    ask(service, sock, script.prompt)
    received = b""
    while b"seen " not in received:
        received += sock.recv(4096)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a RST, and not a FIN
    sock.close()
    completion_id = service.client.history(limit=1)["data"][0]["id"]
    eventually(lambda: service.client.history(completion_id)["delivery"] == "left", 3.5, "letting go")
    gate.open()
    assert service.client.finished(completion_id)["response"] == "seen rest"


def ask(service: Service, sock: socket.socket, prompt: str) -> None:
    body = f'{{"prompt": "{prompt}"}}'.encode()
    sock.sendall(b"POST /stream HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%s" % (service.port, len(body), body))


def test_a_cut_answer_was_delivered_cut(client: Client, upstream: Upstream) -> None:
    stream = client.stream_text(upstream.script(delta("half"), close()).prompt)
    stream.rest()
    assert delivery_of(client, stream.completion_id) == ("cut", 4)


def test_a_client_that_reads_nothing_does_not_slow_the_others(client: Client, upstream: Upstream) -> None:
    script = upstream.script([delta("x" * 20_000) for _ in range(150)], finish(), done())
    sleeper = client.ask(script.prompt)
    assert client.finished(int(sleeper.headers["Completion-Id"]))["status"] == "completed"
    assert client.stream_text("Hello").text() == "Hello from the scripted model."
    sleeper.close()
