"""Requests that two programs could read in two ways, over bare sockets: each is refused, and nothing after it is served."""

import re
import socket
from typing import NamedTuple

HIDDEN = b"GET /history?limit=1 HTTP/1.1\r\nHost: %(host)s\r\n\r\n"  # what a smuggler wants to see served
JSON = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"


def post(*fields: bytes, body: bytes = LAST) -> bytes:
    return b"POST /stream HTTP/1.1\r\nHost: %(host)s\r\n" + JSON + b"".join(fields) + b"\r\n" + body


PROBES: dict[str, bytes] = {
    "a length and chunks": post(b"Content-Length: 4\r\n", CHUNKED),
    "chunks and a length": post(CHUNKED, b"Content-Length: 4\r\n"),
    "chunked twice": post(CHUNKED, CHUNKED),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n"),
    "identity, chunked": post(b"Transfer-Encoding: identity, chunked\r\n", b"Content-Length: 3\r\n"),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n"),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", b"Content-Length: 3\r\n"),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"\r\n'),
    "chunked after a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n"),
    "chunked after a NUL": post(b"Transfer-Encoding: \0chunked\r\n"),
    "a space before the colon of chunked": post(b"Transfer-Encoding : chunked\r\n"),
    "a tab before the colon of chunked": post(b"Transfer-Encoding\t: chunked\r\n"),
    "chunked on a folded line": post(b"Transfer-Encoding:\r\n chunked\r\n"),
    "a field folded into the next line": post(b"X-Folded: a\r\n b: c\r\n", b"Content-Length: 5\r\n"),
    "a space before the first field": b"GET /history HTTP/1.1\r\n Host: %(host)s\r\n\r\n",
    "chunked in HTTP/1.0": post(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two lengths": post(b"Content-Length: 5\r\nContent-Length: 6\r\n"),
    "two equal lengths": post(b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    "a list of lengths": post(b"Content-Length: 5, 5\r\n"),
    "a negative length": post(b"Content-Length: -5\r\n"),
    "a length with a plus": post(b"Content-Length: +5\r\n"),
    "a length in hex": post(b"Content-Length: 0x5\r\n"),
    "a length with an underscore": post(b"Content-Length: 0_5\r\n"),
    "an empty length": post(b"Content-Length:\r\n"),
    "a length with a space in it": post(b"Content-Length: 5 5\r\n"),
    "a length in other digits": post("Content-Length: \u0665\r\n".encode()),
    "a space before the colon of a length": post(b"Content-Length : 5\r\n"),
    "an empty chunk size": post(CHUNKED, body=b"\r\n" + LAST),
    "a chunk size with a sign": post(CHUNKED, body=b"+1\r\na\r\n" + LAST),
    "a chunk size with 0x": post(CHUNKED, body=b"0x1\r\na\r\n" + LAST),
    "a chunk size with an underscore": post(CHUNKED, body=b"1_0\r\naaaaaaaaaaaaaaaa\r\n" + LAST),
    "a chunk size of -1": post(CHUNKED, body=b"-1\r\na\r\n" + LAST),
    "a chunk that is longer than it says": post(CHUNKED, body=b"1\r\nabc\r\n" + LAST),
    "a chunk ended by a bare LF": post(CHUNKED, body=b"1\na\n0\n\n"),
    "a space in a chunk size": post(CHUNKED, body=b"1 1\r\na\r\n" + LAST),
    "two Hosts": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\nHost: evil.example\r\n\r\n",
    "two equal Hosts": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\nHost: %(host)s\r\n\r\n",
    "a space before Host's colon": b"GET /history HTTP/1.1\r\nHost : %(host)s\r\n\r\n",
    "a NUL in a field": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\nX-A: a\0b\r\n\r\n",
    "a bare CR in a field": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\nX-A: a\rX-B: b\r\n\r\n",
    "a bare LF between the fields": b"GET /history HTTP/1.1\r\nHost: %(host)s\nX-A: a\r\n\r\n",
    "bare LFs alone": b"GET /history HTTP/1.1\nHost: %(host)s\n\n",
    "a field without a name": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\n: a\r\n\r\n",
    "a field without a colon": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\nX-A\r\n\r\n",
    "a name with brackets": b"GET /history HTTP/1.1\r\nHost: %(host)s\r\nX[A]: a\r\n\r\n",
    "two spaces in the first line": b"GET  /history HTTP/1.1\r\nHost: %(host)s\r\n\r\n",
    "a tab in the first line": b"GET\t/history\tHTTP/1.1\r\nHost: %(host)s\r\n\r\n",
    "a second request line": b"GET /history HTTP/1.1\r\nGET /stats HTTP/1.1\r\nHost: %(host)s\r\n\r\n",
    "HTTP/1.9": b"GET /history HTTP/1.9x\r\nHost: %(host)s\r\n\r\n",
    "HTTP/2.0": b"GET /history HTTP/2.0\r\nHost: %(host)s\r\n\r\n",
    "no version": b"GET /history\r\nHost: %(host)s\r\n\r\n",
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
INSIDE = b"GET /history?limit=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"  # a request as a body
LENGTH = b"Content-Length: %d\r\n" % len(INSIDE)
CLOSE = b"GET /no/such/page HTTP/1.1\r\nHost: %(host)s\r\nConnection: close\r\n\r\n"
PIPELINED: dict[str, bytes] = {  # refused before the body was read
    "a body that is too long": post(b"Content-Length: 9000000\r\n", b"Connection: close\r\n", body=INSIDE),
    "a body of another kind": post(LENGTH, b"Connection: close\r\n", body=INSIDE).replace(b"application/json", b"text/plain"),
    "a body on a GET": b"GET /no/such/page HTTP/1.1\r\nHost: %(host)s\r\nConnection: close\r\n" + LENGTH + b"\r\n" + INSIDE,
    "a body at an unknown method": b"BREW /history HTTP/1.1\r\nHost: %(host)s\r\nConnection: close\r\n"
    + LENGTH
    + b"\r\n"
    + INSIDE,
    "a body for a stranger": post(LENGTH, b"Connection: close\r\n", body=INSIDE).replace(b"%(host)s", b"evil.example"),
}
# The same without `Connection: close`: what comes behind the body is the next request, and the body is none.
KEPT = {name: probe.replace(b"Connection: close\r\n", b"") + CLOSE for name, probe in PIPELINED.items()}


class Answer(NamedTuple):
    status: int  # of the first response; 0 if the connection was closed without one
    responses: int
    received: bytes


def send(port: int, probe: bytes, hidden: bytes = HIDDEN, timeout: float = 6.0) -> Answer:
    """Send the probe and, right behind it, a good request. The client reads until the service closes."""
    host = {b"host": b"127.0.0.1:%d" % port}
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        try:
            connection.sendall(filled(probe, host) + filled(hidden, host))
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    status = int(received.split(None, 2)[1]) if received.startswith(b"HTTP/") else 0
    return Answer(status, len(re.findall(rb"HTTP/1\.[01] \d\d\d ", received)), received)


def filled(request: bytes, values: dict[bytes, bytes]) -> bytes:
    return request.replace(b"%(host)s", values[b"host"])
