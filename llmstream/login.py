"""Coming in and going out, and the page on which an admin makes users and keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, abort, flash, g, redirect, render_template, request, session
from flask_login import login_user, logout_user
from marshmallow import ValidationError
from sqlalchemy import func, select, update
from werkzeug.exceptions import TooManyRequests

from .access import ROLES, actor
from .accounts import ApiKey, Audit, NewUserSchema, Session, User, audit, revoke_sessions
from .auth import check_form, has_login, is_browser
from .extensions import db
from .gate import client_address, received_body
from .models import now
from .schemas import BIGGEST_ID, PageSchema

bp = Blueprint("login", __name__)
LINES = 50  # of the audit trail a page
WINDOW = timedelta(minutes=15)
MISSES_BY_NAME, MISSES_BY_ADDRESS = 10, 50  # wrong passwords in a window; then even the right one has to wait
LOGINS_BY_NAME = 60  # right ones, too: each costs a core some 50 ms


@bp.get("/login")
def form() -> str:
    return render_template("login.html", next=local_path(request.args.get("next", "")), has_login=has_login())


@bp.post("/login")
def enter() -> Any:
    received_body()
    check_form()
    name, password = request.form.get("name", "")[:100], request.form.get("password", "")[:200]
    target = name.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    tried = let_try(target)
    user = User.named(target)
    if not User.check(user, password):
        words = "This name and password do not belong together. Nothing was changed."
        onward = local_path(request.form.get("next", ""))
        return render_template("login.html", next=onward, has_login=True, failure=words, name=name), 401
    assert user
    tried.action = "login"
    come_in(user)
    return redirect(local_path(request.form.get("next", "")), 303)


def come_in(user: User) -> None:
    """In this browser, and with that commit. What it had come in by before is worth nothing any more."""
    end_session()
    opened = Session.open(user, client_address())
    db.session.commit()
    session.clear()
    login_user(opened)


def end_session() -> None:
    if is_browser():
        id_hash = g.actor.credential.removeprefix("session:")
        db.session.execute(update(Session).where(Session.id_hash == id_hash).values(revoked_at=now()))


def local_path(path: str) -> str:
    """Where to go next, on this site only."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"


def let_try(name: str) -> Audit:
    """The line of the audit trail for this try. 429 once too many were wrong, for this name or from this address.

    It counts as wrong until the password is found to be right, so that of many tries at the same time none is one too many.
    """
    refuse_guessing(name, 1)
    tried = audit("login failed", name, name=name)
    try:
        refuse_guessing(name, 0)
    except TooManyRequests:
        db.session.delete(tried)  # else who goes on trying would shut the others out for ever
        db.session.commit()
        raise
    return tried


def refuse_guessing(name: str, more: int) -> None:
    """429 if there were too many wrong passwords, with `more` of them; counted over all workers."""
    since, here = now() - WINDOW, client_address()
    recent = select(func.count()).where(Audit.action == "login failed", Audit.at > since)
    changes = select(func.max(Audit.at)).where(Audit.action == "password set", Audit.target == name, Audit.at > since)
    changed = db.session.scalar(changes)
    of_name = recent.where(Audit.target == name, Audit.at > (changed or since))  # what an admin has set counts anew
    lately = select(Session.id_hash).join(User).where(User.name == name, Session.remote_addr == here, Session.expires_at > now())
    if db.session.scalar(lately.limit(1)):  # it came in from here: then what others try from elsewhere shuts nobody out
        of_name = of_name.where(Audit.remote_addr == here)
    by_name = db.session.scalar(of_name) or 0
    by_address = db.session.scalar(recent.where(Audit.remote_addr == here)) or 0
    logins = select(func.count()).where(Audit.action == "login", Audit.at > since, Audit.target == name)
    then = "Wait a quarter of an hour, then try again."
    if (db.session.scalar(logins) or 0) >= LOGINS_BY_NAME:
        raise TooManyRequests(f"Too many logins. {then}", retry_after=WINDOW.seconds)
    if by_name + more > MISSES_BY_NAME or by_address + more > MISSES_BY_ADDRESS:
        raise TooManyRequests(f"Too many wrong passwords. {then}", retry_after=WINDOW.seconds)


@bp.post("/logout")
def leave() -> Any:
    received_body()
    if is_browser():
        end_session()
        audit("logout", actor().name)
    logout_user()
    return redirect("/login", 303)


@bp.post("/password")
def change_password() -> Any:
    """One's own. Other browsers in which one is logged in have to log in again."""
    fields = given()
    user = User.named(actor().name)
    if not is_browser() or user is None:
        abort(403, "A password is changed by who is logged in with it.")
    new = NewUserSchema(only=("password",)).load({"password": fields.get("password", "")})["password"]
    tried = let_try(user.name)
    if not User.check(user, fields.get("current", "")[:200]):
        raise ValidationError("Is not your password. Nothing was changed.", "current")
    tried.action = "password changed"
    user.set_password(new)
    revoke_sessions(user)
    come_in(user)
    flash("Your password is changed. Other browsers in which you were logged in have to log in again.")
    return redirect("/login", 303)


@bp.get("/admin")
def admin() -> str:
    before = PageSchema(only=("before",)).load(request.args.to_dict()).get("before")
    return overview(before)


def overview(before: int | None = None, **more: Any) -> str:
    """Users, keys, and a page of what was done, up to the line `before`."""
    users = db.session.scalars(select(User).order_by(User.name)).all()
    keys = db.session.scalars(select(ApiKey).order_by(ApiKey.id.desc())).all()
    lines = select(Audit).order_by(Audit.id.desc()).limit(LINES)
    trail = db.session.scalars(lines.where(Audit.id < before) if before else lines).all()
    more |= {"before": before, "is_full": len(trail) == LINES, "roles": list(ROLES), "scopes": sorted(ROLES["admin"])}
    return render_template("admin.html", users=users, keys=keys, trail=trail, **more)


@bp.post("/admin/users")
def add_user() -> Any:
    made = NewUserSchema().load(given())
    password = made.pop("password", None)
    user = User(**made)
    if password:
        user.set_password(password)
    db.session.add(user)
    audit("user added", user.name, {"role": user.role})
    flash(f"{user.name} may come in as {user.role}.")
    return redirect("/admin", 303)


@bp.post("/admin/users/<int:user_id>")
def change_user(user_id: int) -> Any:
    """`role`, `password`, or `enabled` (yes, no). A change of either ends the sessions that there are."""
    user = db.session.get(User, min(user_id, BIGGEST_ID)) or abort(404, f"There is no user {user_id}.")
    change = given()
    if not change:
        raise ValidationError("Say what to change: role, password or enabled.", "role")
    if user.name == g.actor.name and ("role" in change or change.get("enabled") == "no"):
        raise ValidationError("You cannot take this from yourself: another admin can.", "role")
    if "role" in change:
        user.role = NewUserSchema(only=("role",)).load({"role": change["role"]})["role"]
    if "password" in change:
        user.set_password(NewUserSchema(only=("password",)).load({"password": change["password"]})["password"])
    if "enabled" in change:
        user.disabled_at = now() if change["enabled"] == "no" else None
    revoke_sessions(user)
    audit("password set" if "password" in change else "user changed", user.name, {"fields": sorted(change), "role": user.role})
    may_come_in = "may not come in any more" if user.disabled_at else "may come in"
    words = {"role": f"is {user.role} now", "password": "has a new password", "enabled": may_come_in}
    flash(f"{user.name} {' and '.join(words[name] for name in words if name in change)}. Browsers have to log in again.")
    return redirect("/admin", 303)


@bp.post("/admin/keys")
def add_key() -> Any:
    fields = given()
    if scopes := request.form.getlist("scopes"):
        fields["scopes"] = scopes
    _, secret = ApiKey.make(fields)
    return overview(secret=secret), 201, {"Cache-Control": "no-store"}


@bp.post("/admin/keys/<int:key_id>/revoke")
def revoke_key(key_id: int) -> Any:
    received_body()
    key = db.session.get(ApiKey, min(key_id, BIGGEST_ID)) or abort(404, f"There is no key {key_id}.")
    key.revoked_at = key.revoked_at or now()
    audit("key revoked", key.name, {"id": key.id})
    flash(f"The key {key.name} is revoked.")
    return redirect("/admin", 303)


def given() -> dict[str, Any]:
    received_body()
    return {name: value for name, value in request.form.items() if value}
