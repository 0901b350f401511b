"""Commands: `flask --app wsgi <command>`."""

from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext
from sqlalchemy.exc import SQLAlchemyError

from .accounts import User
from .compiled import compile_all
from .config import describe_database, is_loopback
from .extensions import db
from .tables import bring_up_to_date, fail, make_private, reason


@click.command()
@with_appcontext
def prepare() -> None:
    """Bring tables and compiled templates up to date; where the database cannot be reached, one sentence and exit status 1."""
    bring_up_to_date()
    compile_all(current_app)
    host = current_app.config["HOST"]
    if not is_loopback(host) and not db.session.scalar(User.with_a_way_in()):
        make = ".venv/bin/flask --app wsgi user add NAME --role admin"
        fail(f"HOST={host} opens the service to other machines, and there is no user yet: make one by `{make}`, and start again.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@with_appcontext
def backup(file: Path) -> None:
    """Copy the SQLite database into a new FILE while the service runs. What is committed by now is in it."""
    database = describe_database(current_app.config["SQLALCHEMY_DATABASE_URI"])
    if db.engine.dialect.name != "sqlite":
        fail("This copies SQLite only; PostgreSQL comes with pg_dump, which does the same.")
    if not Path(str(db.engine.url.database)).exists():
        fail(f"There is no {database}: correct DATABASE_URL.")
    if file.exists():
        fail(f"There is a {file} already: name a file that is not there yet.")
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    try:
        make_private(part)
        with db.engine.connect() as connection:
            connection.exec_driver_sql("VACUUM INTO ?", (str(part),))
        part.replace(file)  # so that a file of this name is always a whole copy
    except (SQLAlchemyError, OSError) as error:
        part.unlink(missing_ok=True)
        fail(f"The copy could not be made ({reason(error)}): put that right and try again.")
    print(f"llmstream: {file} is a copy of the {database}.")
