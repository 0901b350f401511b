"""Full-text search over prompts and answers: FTS5 on SQLite, `tsvector` with GIN on PostgreSQL."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, cast, column, literal_column, select, table
from sqlalchemy.dialects.postgresql import TSQUERY

from .extensions import db
from .words import Term, parse


def window(ids: Any, low: int, high: int) -> ColumnElement[bool]:
    """low <= id < high. The numbers stand in the statement itself, so that PostgreSQL plans for this very window."""

    def number(value: int) -> Any:
        return bindparam(None, value, BigInteger, literal_execute=True)

    return (ids >= number(low)) & (ids < number(high))


def matching(query: str, low: int, high: int) -> Select[Any]:
    """The ids from `low` to below `high` of all indexed completions that this query finds; none for one without words."""
    terms = parse(query)
    if db.engine.dialect.name == "sqlite":
        ids = column("rowid", BigInteger)
        found = literal_column("completions_fts").op("MATCH")(" ".join(map(_fts5, terms)) or '""')
    else:  # the cast takes words as they are: no dictionary, no parser
        ids = column("completion_id", BigInteger)
        found = literal_column("document").op("@@")(cast(" & ".join(map(_tsquery, terms)), TSQUERY))
    return select(ids).select_from(table("completions_fts")).where(found, window(ids, low, high))


def _fts5(term: Term) -> str:
    return f'"{" ".join(term.words)}"{" *" * term.prefix}'


def _tsquery(term: Term) -> str:
    words = [f"'{word}'" for word in term.words]
    return "(" + " <-> ".join(words) + ":*" * term.prefix + ")"
