"""The tables of the database, brought up to date before anything else uses them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from alembic import command
from alembic.util import CommandError
from flask import current_app
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .config import PROJECT, describe_database
from .extensions import db


def bring_up_to_date() -> None:
    """Make or change the tables as this version needs them; where that cannot be, end with a sentence that says why."""
    database = describe_database(current_app.config["SQLALCHEMY_DATABASE_URI"])
    try:
        if db.engine.dialect.name == "sqlite":
            make_private(Path(str(db.engine.url.database)))
        db.engine.connect().close()
    except (SQLAlchemyError, OSError) as error:
        fail(f"The {database} cannot be opened ({reason(error)}): make it available, or correct DATABASE_URL.")
    try:
        command.upgrade(current_app.extensions["migrate"].migrate.get_config(str(PROJECT / "migrations")), "head")
        if db.engine.dialect.name == "sqlite":
            forget_size_of_index()
    except CommandError as error:
        fail(f"The {database} is from another version of llmstream ({error}): run that one, or set DATABASE_URL anew.")
    except (SQLAlchemyError, RuntimeError) as error:
        fail(f"The tables of the {database} cannot be brought up to date ({reason(error)}): put that right first.")


def make_private(file: Path) -> None:
    """A new database is its owner's alone, and so will be the files that SQLite puts beside it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not file.exists():
        file.touch(mode=0o600)


def forget_size_of_index() -> None:
    """After an ANALYZE of an empty search index SQLite reads all of it, however large by then, for each part that FTS5 drops."""
    with db.engine.begin() as connection:
        if connection.scalar(text("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'")):
            connection.execute(text("DELETE FROM sqlite_stat1 WHERE tbl = 'completions_fts_data'"))


def reason(error: Exception) -> str:
    """The first line of what the database or the system said: the rest may be SQL, or hints for programmers."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = cause.strerror if isinstance(cause, OSError) else str(cause)
    return str(said).partition("\n")[0].strip()


def fail(sentence: str) -> NoReturn:
    sys.exit(f"llmstream: {sentence}")
