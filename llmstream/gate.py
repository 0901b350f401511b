"""What every request must be, whoever sends it: for one of our names, from our own pages if from any, and not without end."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import gevent
from flask import Flask, Response, abort, current_app, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_date
from werkzeug.middleware.proxy_fix import ProxyFix

from .config import address_of, is_loopback
from .transcript import PIECE_BYTES

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
BODY_S = 20
SEND_BUFFER_BYTES = 65536
PROXIED = ("Forwarded", "Via", "X-Real-Ip", "True-Client-Ip", "Cf-Connecting-Ip")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def init_app(app: Flask) -> None:
    app.wsgi_app = through_proxies(app.wsgi_app, app.config["LLMSTREAM_PROXIES"])  # type: ignore[method-assign]
    app.before_request(refuse_strangers)
    app.before_request(forget_odd_dates)
    app.after_request(bound_its_reader)
    app.after_request(add_headers)
    app.jinja_env.globals["csp_nonce"] = csp_nonce


def through_proxies(app: Any, networks: Iterable[Any]) -> Callable[..., Any]:
    """What a forwarded request says of its client and scheme counts only if it comes from one of these networks."""
    behind_proxy = ProxyFix(app, x_for=1, x_proto=1)

    def choose(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            peer = address_of(environ.get("REMOTE_ADDR", ""))
        except ValueError:
            return app(environ, start_response)
        return (behind_proxy if any(peer in network for network in networks) else app)(environ, start_response)

    return choose


def refuse_strangers() -> None:
    """403 for a foreign Host (DNS rebinding) and for a foreign Origin (another site's page)."""
    if not is_our_name(host_name(request.headers.get("Host", ""))):
        abort(403, "This service does not answer to this name. The setting LLMSTREAM_HOSTS can allow it.")
    origin = request.headers.get("Origin")
    is_foreign = origin is not None and origin != f"{request.scheme}://{request.headers['Host']}"
    is_cross_site = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
    if is_foreign or (is_cross_site and request.method not in SAFE_METHODS):
        abort(403, "Requests from the pages of other sites are refused.")


def forget_odd_dates() -> None:
    """Werkzeug raises on a date in a year that no date can have. As any other that is none, it counts as not sent."""
    for name in ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE"):
        try:
            parse_date(request.environ.get(name))
        except (OverflowError, ValueError):
            del request.environ[name]


def is_our_name(name: str) -> bool:
    """A name of this machine, the address we listen on, one that a setting allows; where we listen on all, any address."""
    host, allowed = current_app.config["HOST"], current_app.config["LLMSTREAM_HOSTS"]
    if name in {*LOOPBACK, *allowed, bracketed(host)}:
        return True
    listens_everywhere = host != "localhost" and ipaddress.ip_address(host).is_unspecified
    return listens_everywhere and not allowed and (is_address(name) or name == socket.gethostname().lower())


def host_name(host: str) -> str:
    """The name in a Host header, without the port; empty if it is not a host at all."""
    try:
        parts = urlsplit(f"//{host}")
        return bracketed(parts.hostname or "") if parts.netloc == host and "@" not in host and parts.port != 0 else ""
    except ValueError:
        return ""


def bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


def came_from_afar() -> bool:
    """From another machine, as far as that can be seen: a proxy on this one may say nothing of whom it speaks for."""
    was_forwarded = any(name in PROXIED or name.startswith("X-Forwarded-") for name, _ in request.headers)
    return was_forwarded or not is_loopback(request.remote_addr or "")


def client_address() -> str | None:
    """Of IPv6 the network of 64 bits: its client may take another address in it at any time (RFC 8981).

    Without the port that some proxies tell; None where what they tell is no address.
    """
    told = request.remote_addr or ""
    try:
        address = address_of((told if is_address(told) else host_name(told)).strip("[]"))
    except ValueError:
        return None
    if address.version == 4 or address.is_loopback:
        return str(address)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def received_body() -> bytes:
    """The whole body of the request, in time. Aborts with 400, 408 or 413."""
    try:
        with gevent.Timeout(BODY_S):
            body = request.get_data()
    except gevent.Timeout:
        abort(408, f"The body did not come within {BODY_S} s.")
    except HTTPException:
        raise
    except Exception as error:  # gunicorn's own kinds, and a connection that broke: the sender's fault, whatever it is
        abort(400, f"The body could not be read: {type(error).__name__}.")
    if len(body) > current_app.config["LLMSTREAM_MAX_BODY_BYTES"]:
        abort(413)
    if len(body) < (request.content_length or 0):
        abort(400, "The body is shorter than its Content-Length says.")
    return body


def bound_slow_reader() -> None:
    """A client that takes no piece for LLMSTREAM_READER_TIMEOUT_S, or whose link is down, is let go; its answer goes on."""
    connection: socket.socket | None = request.environ.get("gunicorn.socket")
    if connection is None:
        return
    seconds: float = current_app.config["LLMSTREAM_READER_TIMEOUT_S"]
    connection.settimeout(seconds)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds a dead link where nothing is being sent
    for name, value in (("TCP_KEEPIDLE", seconds / 4), ("TCP_KEEPINTVL", seconds / 10), ("TCP_USER_TIMEOUT", seconds * 1000)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, round(value)))


def bound_its_reader(response: Response) -> Response:
    """After the body of the request, which has a time limit of its own."""
    bound_slow_reader()
    if not response.is_streamed:
        response.response = list(in_pieces(response.get_data()))
    return response


def in_pieces(data: bytes) -> Iterator[bytes]:
    """A body as it is sent: its reader has LLMSTREAM_READER_TIMEOUT_S for each piece."""
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def csp_nonce() -> str:
    """What a page's own scripts and styles carry, new for each response: nothing else is run, wherever it comes from."""
    nonce: str = g.setdefault("csp_nonce", secrets.token_urlsafe(16))
    return nonce


def add_headers(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY.format(csp_nonce()))
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
