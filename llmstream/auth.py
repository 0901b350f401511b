"""Who may knock, and as whom. Until there is a login: only this machine, by its own names, and nobody else's page or proxy."""

from __future__ import annotations

import re
import secrets
from urllib.parse import urlsplit

from flask import Flask, Response, abort, current_app, g, request

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


NOBODY = "local"  # the reviewer whose name was never typed
LONGEST_NAME = 50


def init_app(app: Flask) -> None:
    app.before_request(refuse_strangers)
    app.after_request(add_headers)
    app.after_request(keep_cookies)
    app.jinja_env.globals["reviewer"] = reviewer


def refuse_strangers() -> None:
    """403 for a foreign Host (DNS rebinding), a foreign Origin (another site's page), and anything a proxy has forwarded."""
    if host_name(request.headers.get("Host", "")) not in {*LOOPBACK, bracketed(current_app.config["HOST"])}:
        abort(403, "This service answers only to the names of its own machine, such as localhost.")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.headers['Host']}":
        abort(403, "Requests from the pages of other sites are refused.")
    if any(name == "Forwarded" or name.startswith("X-Forwarded-") for name in request.headers.keys()):  # noqa: SIM118  (it iterates over pairs)
        abort(
            403, "Forwarded requests are refused: there is no login yet, so this service is for its own machine only."
        )


def host_name(host: str) -> str:
    """The name in a Host header, without the port; empty if it is not a host at all."""
    try:
        parts = urlsplit(f"//{host}")
        return bracketed(parts.hostname or "") if parts.netloc == host and "@" not in host and parts.port != 0 else ""
    except ValueError:
        return ""


def bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# Who judges, until a login says it: a name typed once, and a browser known by a random word. Neither proves anything.
def reviewer() -> str:
    return plain_name(request.cookies.get("reviewer", "")) or NOBODY


def plain_name(text: str) -> str:
    """With single spaces; empty where it cannot be a name."""
    name = " ".join(text.split())
    return name if name.isprintable() and len(name) <= LONGEST_NAME else ""


def browser() -> str:
    """Tells browsers apart, so that two of them are not given the same answer to review."""
    known = request.cookies.get("browser", "")
    if not re.fullmatch(r"[\w-]{22}", known, re.ASCII):
        known = g.setdefault("cookies", {}).setdefault("browser", secrets.token_urlsafe(16))
    return known


def call_reviewer(name: str) -> None:
    g.setdefault("cookies", {})["reviewer"] = name


def keep_cookies(response: Response) -> Response:
    for name, value in g.get("cookies", {}).items():
        response.set_cookie(name, value, max_age=31_536_000, httponly=True, samesite="Lax")
    return response
