"""Who knocks, and whether this request may pass: names, origins and proxies first, then the credential, then the route's rule.

Without any credential there is no login: then this machine only, by its own names, and nobody else's page or proxy.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

import gevent
from flask import Flask, Request, Response, abort, current_app, g, redirect, request, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_login import LoginManager, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import HTTPException, Unauthorized
from werkzeug.middleware.proxy_fix import ProxyFix

from .access import ANYBODY, LOCAL, PUBLIC, RULES, Actor, may
from .accounts import ApiKey, Session, User
from .config import is_loopback
from .extensions import db

BODY_S = 20
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOK_AGAIN_S = 1.0  # so soon after the first credential was made, it is asked for
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
logins = LoginManager()
csrf = CSRFProtect()


class Cookies(SecureCookieSessionInterface):
    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def init_app(app: Flask) -> None:
    app.config.update(SESSION_COOKIE_SAMESITE="Lax", WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_TIME_LIMIT=None)
    app.session_interface = Cookies()
    app.wsgi_app = through_proxies(app.wsgi_app, app.config["LLMSTREAM_PROXIES"])  # type: ignore[method-assign]
    logins.init_app(app)
    csrf.init_app(app)
    app.extensions["credentials seen"] = (False, 0.0)
    for step in (refuse_strangers, identify, refuse_forgery, enforce):
        app.before_request(step)
    app.after_request(add_headers)
    app.context_processor(lambda: {"actor": g.get("actor"), "may": lambda what: g.get("actor") is not None and may(what)})


def through_proxies(app: Any, networks: Iterable[Any]) -> Callable[..., Any]:
    """What a forwarded request says of its client and scheme counts only if it comes from one of these networks."""
    behind_proxy = ProxyFix(app, x_for=1, x_proto=1)

    def choose(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            peer = ipaddress.ip_address(environ.get("REMOTE_ADDR", ""))
        except ValueError:
            return app(environ, start_response)
        return (behind_proxy if any(peer in network for network in networks) else app)(environ, start_response)

    return choose


def refuse_strangers() -> None:
    """403 for a foreign Host (DNS rebinding), a foreign Origin (another site's page), and what is forwarded without a login."""
    if not is_our_name(host_name(request.headers.get("Host", ""))):
        abort(403, "This service does not answer to this name. LLMSTREAM_HOSTS can allow it.")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.headers['Host']}":
        abort(403, "Requests from the pages of other sites are refused.")
    was_forwarded = any(name == "Forwarded" or name.startswith("X-Forwarded-") for name in request.headers.keys())  # noqa: SIM118  (it iterates over pairs)
    if was_forwarded and not has_login():
        abort(403, "Forwarded requests are refused while there is no login: flask --app wsgi user add makes the first user.")


def is_our_name(name: str) -> bool:
    config = current_app.config
    if name in {*LOOPBACK, *config["LLMSTREAM_HOSTS"], bracketed(config["HOST"])}:
        return True
    return not config["LLMSTREAM_HOSTS"] and is_any(config["HOST"]) and (is_address(name) or name == socket.gethostname())


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


def is_any(host: str) -> bool:
    return is_address(host) and ipaddress.ip_address(host).is_unspecified


def identify() -> None:
    """Find out who it is: g.actor, None for a stranger. Only plain values are kept, and no connection is."""
    if not has_login():
        g.actor = LOCAL
        return
    try:
        g.actor = current_user.actor() if current_user.is_authenticated else None
    finally:
        db.session.remove()


def has_login() -> bool:
    """Whether somebody must show who they are: yes, unless only this machine can reach us and no credential exists."""
    if not is_loopback(current_app.config["HOST"]):
        return True
    known, until = current_app.extensions["credentials seen"]
    if time.monotonic() >= until:
        try:
            known = User.anybody()
        except SQLAlchemyError:
            if not until:
                raise  # we have never known
        finally:
            db.session.remove()
        current_app.extensions["credentials seen"] = (known, time.monotonic() + LOOK_AGAIN_S)
    return known


@logins.user_loader
def by_cookie(token: str) -> Session | None:
    return Session.find(token)


@logins.request_loader
def by_key(request: Request) -> ApiKey | None:
    given = request.authorization
    return ApiKey.find(given.token) if given and given.type == "bearer" and given.token else None


def refuse_forgery() -> None:
    """Another site's page can make a browser send our cookie, but neither our form's token nor our Origin."""
    if request.method in SAFE_METHODS or not (g.actor and (g.actor.credential or "").startswith("session:")):
        return
    if request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        received_body()
        check_form()
    elif "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site") != "same-origin":
        abort(403, "With a login's cookie, a browser must say where a request comes from (Origin or Sec-Fetch-Site).")


def check_form() -> None:
    try:
        csrf.protect()
    except CSRFError:
        abort(400, "This form is too old, or not from this site. Nothing was changed. Load the page again and send it once more.")


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


def enforce() -> Any:
    """Let pass what the rule of this route allows. Without one nothing passes; what is not there is not told to strangers."""
    rule = RULES.get(request.endpoint or "", ANYBODY if request.endpoint is None else None)
    if rule == PUBLIC:
        return None
    actor: Actor | None = g.actor
    if actor is None:
        return show_the_door()
    if rule is None:
        abort(403, "Nobody has been allowed to use this yet.")
    if rule != ANYBODY and rule not in actor.may:
        abort(403, f"This needs the permission to {rule}, and {actor.name} does not have it here.")
    return None


def show_the_door() -> Any:
    if request.method == "GET" and request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
        return redirect(url_for("login.form", next=request.full_path.rstrip("?")))
    words = "Log in, or send an API key: Authorization: Bearer <key>. The one that came, if any, is unknown, expired or revoked."
    raise Unauthorized(words, www_authenticate=WWWAuthenticate("bearer"))


def add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
