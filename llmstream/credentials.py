"""Commands for users and keys: `flask --app wsgi user add ana --role admin`, `flask --app wsgi key add script --user ana`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask.cli import AppGroup
from marshmallow import ValidationError
from sqlalchemy import select, update

from .access import LOCAL, ROLES
from .accounts import ApiKey, NewUserSchema, User, audit, revoke_sessions
from .errors import Unprocessable
from .extensions import db
from .judgements import SavedView
from .models import now
from .tables import bring_up_to_date

user = AppGroup("user", help="Who may log in.")
key = AppGroup("key", help="API keys, for scripts.")
password = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@contextmanager
def in_words() -> Iterator[None]:
    """A refusal of a schema as one of a command."""
    try:
        yield
    except ValidationError as error:
        raise click.ClickException(str(Unprocessable(error.normalized_messages()).description)) from None


@user.command("add")
@click.argument("name")
@click.option("--role", default="user", type=click.Choice(list(ROLES)))
@click.option("--no-password", is_flag=True, help="A user for scripts: API keys only.")
@password
@in_words()
def add_user(name: str, role: str, no_password: bool, password_stdin: bool) -> None:
    """Make a user. Asks for a password of at least 12 characters."""
    bring_up_to_date()  # the first user may be there before the first start
    made = User(**NewUserSchema(only=("name", "role")).load({"name": name, "role": role}))
    if not no_password:
        made.set_password(asked(password_stdin))
    if not db.session.scalar(select(User.id).limit(1)):  # who makes the first user takes along the filters that were kept before
        db.session.execute(update(SavedView).where(SavedView.owner == LOCAL.name).values(owner=name))
    db.session.add(made)
    audit("user added", name, {"role": role})
    click.echo(f"{name} may come in as {role}.")
    warn_without_admin()


@user.command("change")
@click.argument("name")
@click.option("--role", type=click.Choice(list(ROLES)))
@click.option("--disable/--enable", "is_disabled", default=None)
@click.option("--new-password", is_flag=True)
@password
@in_words()
def change_user(name: str, role: str | None, is_disabled: bool | None, new_password: bool, password_stdin: bool) -> None:
    """Another role or password; or shut somebody out, with all keys, and let them in again."""
    who = User.named(name)
    if not who:
        raise click.ClickException(f"There is no user {name}.")
    who.role = role or who.role
    if is_disabled is not None:
        who.disabled_at = now() if is_disabled else None
    action = "password set" if new_password or password_stdin else "user changed"
    if action == "password set":
        who.set_password(asked(password_stdin))
    revoke_sessions(who)
    audit(action, name, {"role": who.role, "disabled": bool(who.disabled_at)})
    click.echo(f"{name} is {who.role}{' and may not come in' if who.disabled_at else ''}. Browsers have to log in again.")
    warn_without_admin()


@user.command("list")
def list_users() -> None:
    """All users and their roles."""
    for who in db.session.scalars(select(User).order_by(User.name)):
        click.echo(f"{who.name}\t{who.role}\t{'disabled' if who.disabled_at else 'enabled'}")


@key.command("add")
@click.argument("name")
@click.option("--user", "user_name", required=True, help="Whose key it is: it may what this user may.")
@click.option("--scopes", help=f"Only some of: {', '.join(sorted(ROLES['admin']))}; separated by commas.")
@click.option("--days", type=int, help="It ends after so many days.")
@in_words()
def add_key(name: str, user_name: str, scopes: str | None, days: int | None) -> None:
    """Make an API key. Its secret is printed once and is stored nowhere."""
    given = {"name": name, "user": user_name, "scopes": scopes.split(",") if scopes is not None else None, "days": days}
    row, secret = ApiKey.make({field: value for field, value in given.items() if value is not None})
    click.echo(f"Key {row.id}, shown only now:", err=True)
    click.echo(secret)


@key.command("revoke")
@click.argument("key_id", type=int)
def revoke_key(key_id: int) -> None:
    """End a key. Streams that it opened end within two seconds."""
    found = db.session.get(ApiKey, key_id)
    if not found:
        raise click.ClickException(f"There is no key {key_id}.")
    found.revoked_at = found.revoked_at or now()
    audit("key revoked", found.name, {"id": key_id})
    click.echo(f"Key {key_id} ({found.name}) is revoked.")


@key.command("list")
def list_keys() -> None:
    """All keys, without their secrets."""
    for row in db.session.scalars(select(ApiKey).order_by(ApiKey.id)):
        click.echo(f"{row.id}\t{row.name}\t{row.user.name}\t{','.join(row.scopes or ['all'])}\t{row.state}")


def asked(from_stdin: bool) -> str:
    if from_stdin:
        given = sys.stdin.readline().rstrip("\n")
    else:
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return str(NewUserSchema(only=("password",)).load({"password": given})["password"])


def warn_without_admin() -> None:
    if not db.session.scalar(User.with_a_way_in().where(User.role == "admin")):
        click.echo("Nobody can come in as an admin now: flask --app wsgi user change NAME --role admin makes one.", err=True)
