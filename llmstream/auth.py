"""Who sends this request, and whether they may: the credential first, then the rule of the route (access.RULES).

While there is no user there is no login: whoever reaches the service, which is then on this machine only, may do everything.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gevent
from flask import Flask, Response, abort, current_app, g, redirect, request, url_for
from flask.sessions import SecureCookieSessionInterface
from flask_login import LoginManager, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect, generate_csrf
from gevent.lock import BoundedSemaphore
from markupsafe import Markup
from werkzeug.datastructures import ImmutableMultiDict, WWWAuthenticate
from werkzeug.exceptions import TooManyRequests, Unauthorized

from .access import ANYBODY, LOCAL, PUBLIC, RULES, Actor, may
from .accounts import ApiKey, Session
from .config import is_loopback
from .delivery import Revoked
from .errors import prefers_html, problem
from .extensions import db
from .gate import SAFE_METHODS, came_from_afar, client_address, received_body
from .revocation import Watch

READING = {"history.index", "history.detail", "compare.compare", "queue.index", "export.page", "deletion.page"}
READERS, TURN_S = 4, 10.0  # of these at a time in a worker; how long one more waits
logins = LoginManager()
csrf = CSRFProtect()


class Cookies(SecureCookieSessionInterface):
    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def init_app(app: Flask) -> None:
    app.config.update(SESSION_COOKIE_SAMESITE="Lax", WTF_CSRF_CHECK_DEFAULT=False, WTF_CSRF_TIME_LIMIT=None)
    app.config["WTF_CSRF_SSL_STRICT"] = False  # gate.py looks at the Origin; a Referer, many browsers leave out
    app.session_interface = Cookies()
    logins.init_app(app, add_context_processor=False)  # it would ask a database that is away once more, for the page of the error
    logins.user_loader(Session.find)
    csrf.init_app(app)
    with app.app_context():
        app.extensions["watch"] = Watch(db.engine, app.extensions["generation"])
    app.extensions["turns"] = BoundedSemaphore(READERS)
    app.register_error_handler(Revoked, show_the_door)
    for step in (meter_address, identify, meter, refuse_forgery, enforce, enter, take_turn):
        app.before_request(step)
    app.after_request(stay_while_streaming)
    app.after_request(keep_private)
    app.teardown_request(leave)
    app.jinja_env.globals["csrf_field"] = csrf_field
    app.context_processor(lambda: {"actor": g.get("actor"), "may": lambda what: bool(g.get("actor")) and may(what)})


def meter_address() -> None:
    """One more request from this address, whoever sends it. 429 once there are too many; without a login there never are."""
    if has_login():
        count(f"address {client_address()}")


def count(who: str) -> None:
    if request.endpoint != "static":
        current_app.extensions["meter"].count(who)


def identify() -> None:
    """Find out who it is: g.actor, None for a stranger. Only plain values are kept, and no connection is."""
    if has_login():
        try:
            key = sent_key()  # it alone counts, whatever cookie comes with it: a wrong key is never a login's
            found = current_user if key is None else ApiKey.find(key)
            g.actor = found.actor() if found and found.is_authenticated else None
        finally:
            db.session.remove()
    elif came_from_afar():
        words = "Requests from other machines, forwarded ones too, are refused while there is no login"
        abort(403, f"{words}: flask --app wsgi user add makes the first user.")
    else:
        g.actor = LOCAL


def has_login() -> bool:
    """Whether somebody must show who they are: yes, unless only this machine can reach us and there is no user."""
    if not is_loopback(current_app.config["HOST"]):
        return True
    return watch().has_login()


def sent_key() -> str | None:
    """Not by `request.authorization`, which raises where Basic credentials are no ASCII."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def meter() -> None:
    """One more request of who sends it."""
    if g.actor and g.actor.counted_as:
        count(g.actor.counted_as)


def refuse_forgery() -> None:
    """Another site's page can make a browser send our cookie, but neither our form's token nor our Origin."""
    if request.method in SAFE_METHODS or not is_browser():
        return
    is_form = request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data")
    if is_form or "X-CSRFToken" in request.headers:  # which the chat page sends: somebody else may have logged in meanwhile
        check_form()
    elif "Origin" not in request.headers and request.headers.get("Sec-Fetch-Site") != "same-origin":
        abort(403, "With a login's cookie, a browser must say where a request comes from (Origin or Sec-Fetch-Site).")


def is_browser() -> bool:
    return ((g.actor and g.actor.credential) or "").startswith("session:")


def check_form() -> None:
    """Abort with 400 unless the form of this request came from a page of ours. Once is enough."""
    if g.get("csrf_valid"):
        return
    received_body()
    try:
        csrf.protect()
    except CSRFError:
        words = "This page is too old, or of another login, or not of this site. Nothing was changed."
        abort(400, f"{words} Load the page again and send it once more.")
    fields = [(name, value) for name, value in request.form.items(multi=True) if name != "csrf_token"]
    request.__dict__["form"] = ImmutableMultiDict(fields)  # so that no route has to know of the token


def csrf_field() -> str:
    """The hidden field that a form needs where a login's cookie is sent along."""
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(generate_csrf()) if is_browser() else ""


def enforce() -> Any:
    """Let pass what the rule of this route allows. Without one nothing passes; what is not there is not told to strangers."""
    rule = RULES.get(request.endpoint) if request.endpoint else ANYBODY
    if rule == PUBLIC:
        return None
    actor: Actor | None = g.actor
    if actor is None:
        return show_the_door()
    if rule is None:
        abort(403, "Nobody has been allowed to use this yet.")
    if rule != ANYBODY and rule not in actor.may:
        abort(403, f"This needs the permission to {rule}, which {actor.name} does not have here.")
    return None


def show_the_door(_revoked: Revoked | None = None) -> Any:
    if request.method == "GET" and prefers_html():
        return redirect(url_for("login.form", next=request.full_path.rstrip("?")))
    words = "Log in, or send an API key: Authorization: Bearer <key>. The one that came, if any, is unknown, expired or revoked."
    return problem(Unauthorized(words, www_authenticate=WWWAuthenticate("bearer")))


def enter() -> None:
    """From now on this request ends when its credential is revoked. 429 where too many with it are under way in this worker."""
    if credential := g.actor and g.actor.credential:
        most = 2 * current_app.config["LLMSTREAM_STREAMS_AT_ONCE"]
        if watch().under_way(credential) >= most:
            raise TooManyRequests(f"At most {most} requests at a time. Wait for one of them to end.", retry_after=5)
        watch().enter(credential, gevent.getcurrent(), g.actor.role)
        g.leave = partial(watch().leave, credential, gevent.getcurrent())


def watch() -> Watch:
    found: Watch = current_app.extensions["watch"]
    return found


def stay_while_streaming(response: Response) -> Response:
    if response.is_streamed and "leave" in g:
        response.call_on_close(g.pop("leave"))
    return response


def keep_private(response: Response) -> Response:
    """What somebody who has logged in was shown is kept by no cache, nor by the next one at this browser."""
    if g.get("actor") and g.actor.credential:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def take_turn() -> None:
    """Pages over many rows need the processor for a while: a few at a time, else hundreds hold up the streams of a worker."""
    if request.endpoint in READING:
        turns: BoundedSemaphore = current_app.extensions["turns"]
        if not turns.acquire(timeout=TURN_S):
            abort(503, "Too many pages are being read at the moment. Try again in a few seconds.")
        g.turns = turns


def leave(_error: BaseException | None) -> None:
    if "leave" in g:
        g.leave()
    if "turns" in g:
        g.turns.release()
