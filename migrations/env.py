"""How Alembic runs our migrations: on the app's own engine, each upgrade checked for what SQLite would lose in silence.

SQLite changes a table by building a new one and dropping the old. With foreign keys on, dropping the old one deletes every row
that refers to it; and its triggers go with it. So the keys are off meanwhile and checked at the end, and triggers are put back.
"""

from typing import Any

from alembic import context
from flask import current_app
from sqlalchemy import Connection, Table, event, text

from llmstream.extensions import db

COMPOSITE_KEYS = ("chunks", "tags", "workers", "sessions", "usage")  # every other table has a number of its own
TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"


@event.listens_for(Table, "after_parent_attach")
def keep_ids(table: Table, _parent: Any) -> None:
    """A table that batch mode builds anew would otherwise give deleted ids a second time."""
    if table.name.startswith("_alembic_tmp_"):
        table.dialect_kwargs["sqlite_autoincrement"] = table.name.removeprefix("_alembic_tmp_") not in COMPOSITE_KEYS


def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
    """Leave the search index and its shadow tables out of comparisons: they are no models."""
    return not (kind == "table" and name and "_fts" in name)


def migrate(connection: Connection) -> None:
    options = current_app.extensions["migrate"].configure_args
    context.configure(connection=connection, target_metadata=db.metadata, include_object=ours, **options)
    with context.begin_transaction():
        context.run_migrations()


def migrate_postgresql(connection: Connection) -> None:
    unlimited = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY(:limits)"
    limits = ["statement_timeout", "transaction_timeout", "lock_timeout"]  # a large table takes its time; our turn, too
    connection.execute(text(unlimited), {"limits": limits})
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('llmstream migrations'))"))  # one instance at a time
    connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))  # but nobody queues up behind us while we wait for a table
    migrate(connection)
    connection.commit()


def migrate_sqlite(connection: Connection) -> None:
    connection.execute(text("PRAGMA foreign_keys=OFF"))  # has no effect inside a transaction, so it comes first
    connection.commit()
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    triggers = dict(connection.execute(text(TRIGGERS)).all())
    tables = set(connection.scalars(text(TABLES)))
    changes = connection.connection.driver_connection.total_changes
    migrate(connection)
    dropped = tables - set(connection.scalars(text(TABLES)))
    kept = set(connection.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")))
    for name, sql in triggers.items():
        if name not in kept and not any(f" {table} " in f"{sql} " for table in dropped):
            connection.execute(text(sql))
    is_changed = connection.connection.driver_connection.total_changes > changes  # the check reads every row
    if broken := is_changed and connection.execute(text("PRAGMA foreign_key_check")).all():
        connection.rollback()
        raise RuntimeError(f"This migration would leave {len(broken)} rows without the row that they refer to.")
    connection.commit()
    connection.execute(text("PRAGMA foreign_keys=ON"))


with db.engine.connect() as connection:
    if connection.dialect.name == "sqlite":
        migrate_sqlite(connection)
    else:
        migrate_postgresql(connection)
