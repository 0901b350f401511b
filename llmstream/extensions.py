"""The Flask extensions, and what makes SQLite safe under gevent: its calls run in native threads, off the hub.

SQLite waits for locks and disks in C, where gevent cannot switch; on the hub that would freeze every stream of the worker.
So each call of the driver runs in a thread pool while its greenlet waits (docs/decisions/0004-sqlite-off-the-hub.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeVar

import gevent
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from gevent import monkey
from gevent.threadpool import ThreadPool
from sqlalchemy import Connection, Engine, MetaData, event
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .config import ConfigError

try:
    import pysqlite3 as sqlite  # type: ignore[import-untyped]  # bundles a SQLite without the WAL-reset bug
except ImportError:
    import sqlite3 as sqlite

SAFE_SQLITE = (3, 51, 3)  # older ones can corrupt a WAL database: sqlite.org/wal.html#walresetbug
BUSY_TIMEOUT_MS = 5  # SQLite's own wait for a lock; ours look more often (`_take_lock`) or hold no thread meanwhile
LOCK_WAIT_S, LOCK_LOOK_S = 0.25, 0.002  # how long a transaction may hold a thread while another process has the lock
BUSY_RETRY_S = 3.0  # how long a request tries again after that
COMMIT_LIMIT_S = 5.0  # a transaction that takes longer is given up, and its connection with it; PostgreSQL ends it 2 s later

T = TypeVar("T")
NAMES = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

db = SQLAlchemy(metadata=MetaData(naming_convention=NAMES))
migrate = Migrate(render_as_batch=True)


def engine_options(url: str) -> dict[str, Any]:
    """`create_engine` arguments for this database. Raises ConfigError where SQLite is too old to be safe."""
    if not make_url(url).drivername.startswith("sqlite"):
        timeouts = "-c statement_timeout=5000 -c lock_timeout=3000 -c idle_in_transaction_session_timeout=7000"
        arguments = {"connect_timeout": 3, "options": timeouts, "application_name": "llmstream"}
        pool = {"pool_pre_ping": True, "pool_size": 10, "pool_timeout": 5}
        return {"hide_parameters": True, **pool, "connect_args": arguments}  # prompts do not belong into a log
    if sqlite.sqlite_version_info < SAFE_SQLITE:
        version = f"SQLite {sqlite.sqlite_version}"
        raise ConfigError(f"{version} can corrupt its file. Install pysqlite3, or set DATABASE_URL to PostgreSQL.")
    lite = {"factory": OffHubConnection, "isolation_level": "IMMEDIATE", "check_same_thread": False}
    return {"module": sqlite, "hide_parameters": True, "pool_size": 10, "pool_timeout": 5, "connect_args": lite}


SQLiteCompiler.get_from_hint_text = lambda self, table, text: text  # type: ignore[method-assign]  # `with_hint`, here too


@event.listens_for(Engine, "connect")
def set_pragmas(connection: Any, _record: Any) -> None:
    if isinstance(connection, OffHubConnection):  # other engines of the process keep theirs
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()


@event.listens_for(Engine, "do_connect")
def connect_postgresql(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
    if parameters.get("application_name") != "llmstream":  # not one of ours (`engine_options`)
        return None
    connection = bound_connection().connect(**parameters)
    # Where PostgreSQL has it (17): the timeout for idle transactions leaves out those that stand still amid several statements.
    connection.execute("SELECT set_config(name, '7000', false) FROM pg_settings WHERE name = 'transaction_timeout'")
    connection.commit()
    return connection


@cache
def bound_connection() -> Any:
    """psycopg's connection, with a limit on every wait: PostgreSQL's own do not fire where its process is frozen."""
    import psycopg  # here, since it must come after patch_all()

    class BoundConnection(psycopg.Connection[Any]):
        def wait(self, *arguments: Any, **options: Any) -> Any:
            try:
                with gevent.Timeout(COMMIT_LIMIT_S):
                    return super().wait(*arguments, **options)
            except gevent.Timeout:
                self.pgconn.finish()  # whatever it was about to say, nobody listens any more
                raise psycopg.OperationalError(f"PostgreSQL said nothing for {COMMIT_LIMIT_S:g} s") from None

    return BoundConnection


class OffHubCursor(sqlite.Cursor):
    def execute(self, *arguments: Any) -> Any:
        """Run one statement; where another process holds the write lock, try again without holding a thread."""
        give_up = time.monotonic() + BUSY_RETRY_S
        while True:
            try:
                return off_hub(self.connection, super().execute, *arguments)
            except sqlite.OperationalError as error:
                retry = "locked" in str(error) and not self.connection.in_transaction and not _in_thread()
                if not retry or time.monotonic() > give_up:
                    raise
            gevent.sleep(0.02)

    def executemany(self, *arguments: Any) -> Any:
        return off_hub(self.connection, super().executemany, *arguments)

    def fetchone(self) -> Any:
        return off_hub(self.connection, super().fetchone)

    def fetchmany(self, *arguments: Any) -> Any:
        return off_hub(self.connection, super().fetchmany, *arguments)

    def fetchall(self) -> Any:
        return off_hub(self.connection, super().fetchall)


class OffHubConnection(sqlite.Connection):
    def cursor(self, factory: Any = OffHubCursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def commit(self) -> None:
        off_hub(self, super().commit)

    def rollback(self) -> None:
        if self.in_transaction:
            off_hub(self, super().rollback)


def off_hub(connection: Any, call: Callable[..., T], *arguments: Any) -> T:
    """Run `call` in a native thread while this greenlet waits; at once where there is no hub to protect.

    A deadline that strikes meanwhile interrupts the connection and waits for its thread before it goes on: no connection is
    ever on two threads.
    """
    if _in_thread() or not monkey.is_module_patched("socket"):
        return call(*arguments)
    result = _pool(gevent.get_hub()).spawn(_attempt, call, arguments)
    try:
        outcome: Any = result.get()
    except BaseException:
        connection.interrupt()
        while not result.ready():
            with suppress(BaseException):  # a second deadline changes nothing: the thread still has the connection
                result.wait()
        raise
    if isinstance(outcome, Raised):
        raise outcome.error
    return outcome


class Raised(NamedTuple):
    """An exception as a value: gevent's pool prints a traceback for each one that is raised in it."""

    error: BaseException


def _attempt(call: Callable[..., T], arguments: tuple[Any, ...]) -> T | Raised:
    _thread.inside = True
    try:
        return call(*arguments)
    except BaseException as error:
        return Raised(error)


_native_sleep = monkey.get_original("time", "sleep")  # in a native thread gevent's would start a hub of its own
_thread = monkey.get_original("threading", "local")()


def _in_thread() -> bool:
    return getattr(_thread, "inside", False)


@cache
def _pool(hub: Any) -> ThreadPool:
    """A pool of its own for our database: gevent's default one also resolves host names."""
    return ThreadPool(8, hub=hub)


def transact(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run `work` in one write transaction, on SQLite in a single visit of a thread. After any error `connection` is unusable.

    Raises what the database raises; on PostgreSQL TimeoutError after COMMIT_LIMIT_S. A disk that hangs is waited for.
    """

    def transaction() -> T:
        if connection.dialect.name == "sqlite":
            _take_lock(connection)
        value = work(connection)
        connection.commit()
        return value

    try:
        if connection.dialect.name == "sqlite":
            return off_hub(connection.connection.driver_connection, transaction)
        with gevent.Timeout(COMMIT_LIMIT_S, TimeoutError(f"the database took more than {COMMIT_LIMIT_S:g} s")):
            return transaction()
    except BaseException:
        connection.invalidate()
        raise


def _take_lock(connection: Connection) -> None:
    """Begin to write: a read that turned to writing would fail at once.

    SQLite's own wait sleeps for longer and longer, and so lost to busier writers for half a second; look often instead.
    """
    if not connection.in_transaction():
        connection.begin()  # else a commit without a statement before it would leave the lock where it is
    driver: Any = connection.connection.driver_connection
    give_up = time.monotonic() + LOCK_WAIT_S
    while time.monotonic() < give_up:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite.OperationalError as error:
            if "locked" not in str(error):
                break
        _native_sleep(LOCK_LOOK_S)
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, with its errors as SQLAlchemy's


def is_passing(error: BaseException) -> bool:
    """Whether the same write may succeed later: the database is locked, full, away or slow, and not at odds with the data."""
    state = str(getattr(getattr(error, "orig", None), "sqlstate", ""))[:2]
    if isinstance(error, DBAPIError) and (error.connection_invalidated or state == "25"):  # 25: PostgreSQL only reads, for now
        return True
    is_operational = isinstance(error, OperationalError | InterfaceError | PoolTimeout | TimeoutError | OSError)
    return is_operational and state != "54"  # "program limit exceeded": PostgreSQL will never take this row


def first_line(error: BaseException) -> str:
    """What the database said, without the statement and the hints that SQLAlchemy adds."""
    return str(error).partition("\n")[0]
