"""Very many rows for benchmarks, as fast as the database takes them.

    DATABASE_URL=... python -m bench.bulk 1000000
"""
import os
import sys
import time
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from llmstream import create_app
from llmstream.demo import Row, Writer, numbered
from llmstream.extensions import db
from llmstream.models import Completion, now

RARE = {"quokka": 100_000, "axolotl": 10_000, "pangolin": 1_000}  # a word that one prompt of so many has
FAST = {
    "sqlite": ["PRAGMA synchronous = OFF", "PRAGMA cache_size = -262144", "PRAGMA foreign_keys = OFF"],
    "postgresql": ["SET statement_timeout = 0", "SET transaction_timeout = 0", "SET synchronous_commit = off"],
}


def bulk(engine: Engine, count: int, seed: int = 1, per_day: int = 5000) -> None:
    """`count` rows of about 1 kB into empty tables, as fast as the database takes them: one day again and again, up to now.

    Each prompt ends with `#<id>`; one in 1,000 has the word pangolin, one in 10,000 axolotl, one in 100,000 quokka.
    """
    days = -(-count // per_day)
    begin = now() - timedelta(days + 2)
    writer = Writer(seed, begin, begin + timedelta(1), brief=True)
    writer.today += timedelta(2)
    rows = writer.rows(min(count, per_day))
    talks = len({row["talk"] for row in rows})
    connection = engine.raw_connection()
    try:
        for statement in FAST[engine.dialect.name]:
            connection.cursor().execute(statement)
        for day in range(days):
            made = numbered(rows[: count - day * per_day], 1 + day * per_day, 1 + day * talks, timedelta(day))
            for row in made[Completion]:
                row["prompt"] += "".join(f" {word}" for word, of in RARE.items() if row["id"] % of == 7) + f" #{row['id']}"
            for table, part in made.items():
                load(connection, engine.dialect, table.__table__, part)
            connection.commit()
        if engine.dialect.name == "postgresql":
            for table in ("conversations", "completions"):
                connection.cursor().execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
        connection.commit()
        for table in db.metadata.tables:  # not the search index, which is empty still
            connection.cursor().execute(f"ANALYZE {table}")
        connection.commit()
    finally:
        connection.detach()  # its settings are not for others
        connection.close()


def load(connection: Any, dialect: Any, table: Any, rows: list[Row]) -> None:
    if not rows:
        return
    kinds = [(name, table.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in rows[0]]
    values = ([process(row[name]) if process else row[name] for name, process in kinds] for row in rows)
    names = ", ".join(rows[0])
    if dialect.name == "sqlite":
        marks = ", ".join("?" * len(kinds))
        connection.cursor().executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", values)
        return
    with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
        for value in values:
            copy.write_row(value)


if __name__ == "__main__":
    os.environ.setdefault("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    os.environ.setdefault("LLMSTREAM_MODEL", "none")
    app, started = create_app(), time.monotonic()
    app.test_cli_runner().invoke(args=["prepare"], catch_exceptions=False)
    with app.app_context():
        bulk(db.engine, int(sys.argv[1]))
    print(f"{int(sys.argv[1]):,} rows in {time.monotonic() - started:.0f} s")
