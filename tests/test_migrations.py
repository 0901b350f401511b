"""Migrations go up and down on both databases, on populated tables, and match the models."""
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.people import command
from tests.service import ROOT, Database, one_database

TRIGGERS = 4  # of ours, on SQLite: what keeps the search index in step with the answers
ANOTHER_MIGRATION = '''
"""Rebuild the parent of most tables, as a later migration may."""
import sqlalchemy as sa
from alembic import op

revision = "zzzz"
down_revision = {head!r}


def upgrade():
    with op.batch_alter_table("completions") as batch:
        batch.alter_column("client_name", existing_type=sa.Text(), type_=sa.String(500))
        batch.add_column(sa.Column("later", sa.Text()))


def downgrade():
    with op.batch_alter_table("completions") as batch:
        batch.drop_column("later")
        batch.alter_column("client_name", existing_type=sa.String(500), type_=sa.Text())
'''


def tables(database: Database) -> sa.MetaData:
    found = sa.MetaData()
    found.reflect(database.engine)
    return found


def populate(database: Database) -> None:
    """One row in every table that exists, each referring to the others' rows."""
    with database.engine.begin() as connection:
        for table in tables(database).sorted_tables:
            if table.name != "alembic_version" and "_fts" not in table.name:
                connection.execute(table.insert().values({column.name: sample(column) for column in table.columns}))


def sample(column: sa.Column[Any]) -> Any:
    kind = column.type
    if isinstance(kind, sa.JSON):
        return {"a": [1, "ü"]}
    if isinstance(kind, sa.DateTime):
        return datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    if isinstance(kind, sa.Boolean):
        return True
    return 1 if isinstance(kind, (sa.Integer, sa.Float)) else f"{column.name} 'ü😀"


def contents(database: Database, without: str = "") -> dict[str, list[dict[str, Any]]]:
    found = {}
    with database.engine.connect() as connection:
        for table in tables(database).sorted_tables:
            if table.name != "alembic_version" and "_fts" not in table.name:
                rows = connection.execute(table.select()).mappings()
                found[table.name] = [{name: value for name, value in row.items() if name != without} for row in rows]
    return found


def test_preparing_makes_what_the_models_say_and_twice_changes_nothing(new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "db", "check", fails=True)
    command(database, "prepare")
    command(database, "db", "check")
    designed = {"conversations", "completions", "chunks", "workers", "reviews", "tags", "users", "api_keys", "sessions", "audit"}
    assert designed <= set(tables(database).tables), "the first migration holds every table of the design"
    populate(database)
    before = contents(database)
    assert all(before.values())
    command(database, "prepare")
    assert contents(database) == before


@one_database
def test_a_new_database_and_its_copy_are_their_owners_alone(new_database: Callable[[], Database], tmp_path: Path) -> None:
    database, copy = new_database(), tmp_path / "copy.db"
    command(database, "prepare")
    command(database, "backup", str(copy))
    for file in (database.url.removeprefix("sqlite:///"), copy):
        assert Path(file).stat().st_mode & 0o777 == 0o600


@one_database
def test_an_analyze_of_an_empty_search_index_does_no_harm_once_it_has_grown(new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "prepare")
    database.execute("ANALYZE")
    drop_a_part = "EXPLAIN QUERY PLAN DELETE FROM completions_fts_data WHERE id >= 1 AND id <= 2"  # as FTS5 says it
    assert "SCAN" in database.rows(drop_a_part)[0]["detail"]
    command(database, "prepare")
    assert "SEARCH" in database.rows(drop_a_part)[0]["detail"]


def test_they_go_down_to_nothing_and_up_again(new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "db", "upgrade")
    populate(database)
    command(database, "db", "downgrade", "base")
    assert set(tables(database).tables) <= {"alembic_version"}
    command(database, "db", "upgrade")
    populate(database)


def test_a_populated_database_of_the_first_release_keeps_all_its_rows(new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "db", "upgrade", "0001")
    populate(database)
    before = contents(database)
    for step in ("head", "0001", "head"):
        command(database, "db", "downgrade" if step == "0001" else "upgrade", step)
        after = contents(database)
        for table, rows in before.items():
            assert [{name: row[name] for name in rows[0]} for row in after[table]] == rows, (step, table)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM completions")  # the triggers that are there have the tables that they need


def test_that_earlier_turns_were_deleted_stays_known(new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "db", "upgrade", "0006")
    populate(database)
    database.execute("UPDATE completions SET turn = NULL, messages = NULL")
    database.execute("UPDATE conversations SET deleted_from = 0")
    for _ in range(2):
        command(database, "db", "upgrade")
        assert database.value("SELECT lacks_turns FROM completions")
        command(database, "db", "downgrade", "0006")
        assert database.value("SELECT deleted_from FROM conversations") == 0


def test_what_an_older_version_had_not_put_into_the_search_index_waits_for_it(new_database: Callable[[], Database]) -> None:
    database = new_database()
    command(database, "db", "upgrade", "0007")
    populate(database)  # one completion that has ended
    for step, head in (("upgrade", "head"), ("downgrade", "0007"), ("upgrade", "head")):
        command(database, "db", step, head)
    assert database.value("SELECT completion_id FROM completions_fts_queue") == database.value("SELECT id FROM completions")


def test_a_later_migration_of_the_largest_table_loses_no_row_no_trigger_no_reference(
        new_database: Callable[[], Database], tmp_path: Path) -> None:
    """SQLite rebuilds a table to change it: done naively, that deletes the rows that refer to it, and its triggers."""
    database = new_database()
    command(database, "db", "upgrade")
    head = database.value("SELECT version_num FROM alembic_version")
    populate(database)
    if database.kind == "sqlite":
        with database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE VIRTUAL TABLE later_fts USING fts5(prompt)")
            connection.exec_driver_sql("CREATE TRIGGER into_fts AFTER INSERT ON completions "
                                       "BEGIN INSERT INTO later_fts(rowid, prompt) VALUES (NEW.id, NEW.prompt); END")
    before = contents(database)
    copy = shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    (copy / "versions" / "zzzz_later.py").write_text(ANOTHER_MIGRATION.format(head=head))
    for step in ("upgrade", "downgrade"):
        command(database, "db", step, "--directory", str(copy))
        assert contents(database, without="later") == before, step
        if database.kind == "sqlite":
            assert database.value("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'") == TRIGGERS + 1, step
            assert database.rows("PRAGMA foreign_key_check") == []
            assert "AUTOINCREMENT" in database.value("SELECT sql FROM sqlite_master WHERE name = 'completions'").upper()
    command(database, "db", "check")
