"""Who sends slowly is let go, and nobody else waits for them."""
import socket
import time
from contextlib import ExitStack

from tests.client import Client
from tests.service import Service, one_database

pytestmark = one_database
START = b"POST /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
SLOW = {"headers": (START, 5), "bodies": (START + b'Content-Length: 100\r\n\r\n{"prompt"', 25)}  # and the longest, in seconds


def test_slow_headers_and_slow_bodies_are_let_go_and_nobody_waits(service: Service, client: Client) -> None:
    with ExitStack() as stack:
        began = time.monotonic()
        slow = [(stack.enter_context(socket.create_connection(("127.0.0.1", service.port))), *how)
                for how in SLOW.values() for _ in range(20)]
        for connection, sent, _ in slow:
            connection.sendall(sent)
        assert client.ask("hello").text
        assert time.monotonic() - began < 2
        for connection, _, longest_s in slow:
            connection.settimeout(max(0.1, began + longest_s - time.monotonic()))
            said = connection.recv(65536)
            assert not said or said.startswith(b"HTTP/1.1 408 "), said
    assert client.ask("hello again").text
