"""Connections to PostgreSQL: one per thread, autocommit, safe behind PgBouncer in transaction mode. Knows no table.

A connection that the thread keeps costs half of one checked out of a pool for each statement, and it is there for the
save when everything else is busy. Count threads against `max_connections`.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.rows import namedtuple_row
from psycopg.types.datetime import TimestamptzLoader
from sqlalchemy.exc import DBAPIError

from qbo_refresh.bounded import BoundedConnection, may_pass
from qbo_refresh.errors import QboRefreshError
from worker import log, reaching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import timedelta

    from worker.settings import Settings

T = TypeVar("T")

UNIQUE_VIOLATION, LOCK_NOT_AVAILABLE = "23505", "55P03"
_PREPARE_AFTER = 3  # executions
_EARLIEST_YEAR, _LATEST_YEAR = 1970, 3000
_TABLE = re.compile(r"\bqbo\.")


class DatabaseUnavailable(QboRefreshError):
    """PostgreSQL cannot be reached or cannot write now. Nothing is known to be wrong with what was asked of it."""


def sqlstate(error: BaseException) -> str | None:
    """Return the five characters of an error's SQLSTATE; None if it has none (a lost connection, mostly)."""
    original = getattr(error, "orig", error)
    return getattr(original, "sqlstate", None)


def is_passing(error: BaseException) -> bool:
    """Tell whether the same statement may succeed later: the connection, a lock, a full disk, a shutdown."""
    if not isinstance(error, DBAPIError | psycopg.Error):
        return False
    state = sqlstate(error)
    if state is None:
        return isinstance(getattr(error, "orig", error), psycopg.OperationalError | psycopg.InterfaceError)
    return may_pass(state)


class _Moments(TimestamptzLoader):
    """Reads what no clock shows, and a file or a hand may have written all the same, as not known.

    To psycopg an infinite moment, or one before Christ, is an error: one row would end every sweep or report that reads
    it. Decisions add durations to moments, so that those far ahead are left out, too.
    """

    def load(self, data: Any) -> Any:
        try:
            moment = super().load(data)
        except psycopg.DataError:
            return None
        return moment if _EARLIEST_YEAR <= moment.year < _LATEST_YEAR else None


def _read_moments(driver: psycopg.Connection[Any], _record: object) -> None:
    driver.adapters.register_loader("timestamptz", _Moments)


def _engine(url: str, *, statement_s: float | None = None) -> sa.Engine:
    engine = sa.create_engine(
        url,
        poolclass=sa.NullPool,
        isolation_level="AUTOCOMMIT",
        # An error's text must not carry a blob, a hash or a label into a log.
        hide_parameters=True,
        connect_args={
            "prepare_threshold": None,  # see _use_session_if_direct
            "connect_timeout": 5,
            "application_name": "qbo-refresh",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
    )
    sa.event.listen(engine, "connect", _read_moments)
    if statement_s is not None:
        sa.event.listen(engine, "do_connect", functools.partial(_connect_bounded, statement_s))
    return engine


def _connect_bounded(
    statement_s: float, _dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]
) -> BoundedConnection:
    connection = BoundedConnection.connect(*arguments, **options)
    connection.statement_s = statement_s + 1  # the server speaks first where it can
    return connection


def migration_engine(settings: Settings) -> sa.Engine:
    """Return an engine for migrations and other long statements: MIGRATION_DATABASE_URL if set, in transactions."""
    return _engine(settings.database(migration=True)).execution_options(isolation_level="READ COMMITTED")


def _use_session_if_direct(connection: sa.Connection, statement_s: float | None) -> bool:
    """Let PostgreSQL keep the plans of what this connection repeats, and limit it, unless a pooler is between.

    Planning is a third of what a refresh costs PostgreSQL. PgBouncer in transaction mode hands each statement to
    another server, where nothing is prepared and whose settings are others' too; it also gives its clients a process
    id that is not the server's.
    """
    driver: psycopg.Connection[Any] | None = connection.connection.driver_connection
    if driver is None:
        return False
    if connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() != driver.info.backend_pid:
        return False
    driver.prepare_threshold = _PREPARE_AFTER
    if statement_s is not None:
        connection.exec_driver_sql(f"SET {_limit(statement_s)}")
    return True


def _limit(statement_s: float) -> str:
    # So that what we have given up does not go on holding locks.
    return f"statement_timeout = {round(statement_s * 1000)}"


class Database:
    """One process's way to PostgreSQL."""

    def __init__(self, url: str, *, schema: str = "qbo", statement_s: float | None = None) -> None:
        """Connect lazily.

        Args:
            url: As `Settings.database` gives it.
            schema: Takes the place of `qbo.` in every statement.
            statement_s: No statement takes longer, whatever is wrong; None for operators' long ones.
        """
        self._engine = _engine(url, statement_s=statement_s)
        self._statement_s = statement_s
        self._schema = schema
        self._local = threading.local()
        self._kept: weakref.WeakSet[sa.Connection] = weakref.WeakSet()
        self._unsaved = 0
        self._unsaved_lock = threading.Lock()
        self.stopping = threading.Event()

    def execute(self, statement: str, parameters: Mapping[str, Any] | None = None) -> sa.CursorResult[Any]:
        """Run one statement on this thread's connection, in a transaction of its own unless one is open.

        Args:
            statement: SQL with `qbo.` before each table and psycopg's `%(name)s` for parameters.
            parameters: Their values.
        """
        return self.connection().exec_driver_sql(self._in_schema(statement), parameters or {})

    def fetch_one(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Run one statement as `execute` does, but on the driver's own cursor; return its row, or None.

        For the two statements of an ordinary refresh: Core's result costs 0.2 ms of CPU more for each of them.

        Raises:
            DBAPIError: As `execute` would.
        """
        driver: psycopg.Connection[Any] | None = self.connection().connection.driver_connection
        if driver is None:
            raise DatabaseUnavailable("The connection to PostgreSQL is gone.")
        try:
            return driver.cursor(row_factory=namedtuple_row).execute(self._in_schema(statement), parameters).fetchone()
        except psycopg.Error as error:
            raise DBAPIError.instance(None, None, error, psycopg.Error, hide_parameters=True) from error

    def _in_schema(self, statement: str) -> str:
        return statement if self._schema == "qbo" else _TABLE.sub(f'"{self._schema}".', statement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Put what this thread executes inside into one transaction; an exception rolls it back."""
        connection = self.connection()
        if self._local.is_direct or self._statement_s is None:
            connection.exec_driver_sql("BEGIN")
        else:  # nothing is prepared behind a pooler, so that these two may go as one
            connection.exec_driver_sql(f"BEGIN; SET LOCAL {_limit(self._statement_s)}")
        waiting: list[Callable[[], None]] = []
        self._local.waiting = waiting
        try:
            yield
            connection.exec_driver_sql("COMMIT")
        except BaseException as error:
            # SQLAlchemy gives up a connection that ^C has met in mid-statement; closing it rolls back, too.
            if is_passing(error) or not isinstance(error, Exception) or connection.invalidated:
                self.drop_connection()
            else:
                connection.exec_driver_sql("ROLLBACK")
            raise
        finally:
            self._local.waiting = None
        for work in waiting:
            work()

    def after_commit(self, work: Callable[[], None]) -> None:
        """Do `work` when this thread's transaction is committed; now, if none is open. Lost with a lost COMMIT."""
        waiting: list[Callable[[], None]] | None = getattr(self._local, "waiting", None)
        if waiting is None:
            work()
        else:
            waiting.append(work)

    def connection(self) -> sa.Connection:
        """Return this thread's connection, opened if need be."""
        connection: sa.Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed or connection.invalidated:
            connection = self._local.connection = self._engine.connect()
            self._kept.add(connection)
            self._local.is_direct = _use_session_if_direct(connection, self._statement_s)
        return connection

    def drop_connection(self) -> None:
        """Throw away this thread's connection: the next statement opens another."""
        connection: sa.Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            with contextlib.suppress(DBAPIError):
                connection.invalidate()
            connection.close()

    def patiently(self, work: Callable[[], T], *, patience: timedelta) -> T:
        """Do `work`, which may be repeated, again while PostgreSQL is away, for at most `patience`.

        Raises:
            DatabaseUnavailable: It stayed away, or this process is stopping.
        """
        end = time.monotonic() + patience.total_seconds()
        pause = 0.05
        while True:
            try:
                return work()
            except DBAPIError as error:
                self.drop_connection()
                if not is_passing(error):
                    raise
                if time.monotonic() + pause > end or self.stopping.is_set():
                    raise DatabaseUnavailable(reaching.database(error).sentence) from error
            self.stopping.wait(pause)
            pause = min(pause * 2, 2.0)

    def until_acknowledged(self, work: Callable[[], T], *, give_up: Callable[[], bool]) -> T:
        """Do `work`, which may be repeated, until PostgreSQL has acknowledged it, for as long as the process lives.

        Meanwhile `is_struggling` is true and nothing new is claimed.

        Args:
            work: A save, written so that repeating it changes nothing more.
            give_up: Asked before each repetition; true once the process is being stopped and its time is up.

        Raises:
            DatabaseUnavailable: It was time to give up.
            DBAPIError: PostgreSQL refused the work itself.
        """
        pause, struggling = 0.05, False
        try:
            while True:
                try:
                    return work()
                except DBAPIError as error:
                    self.drop_connection()
                    if not is_passing(error):
                        raise
                    if give_up():
                        raise DatabaseUnavailable(reaching.database(error).sentence) from error
                    if not struggling:
                        struggling = True
                        self._count_unsaved(1)
                        log.warning("save.repeating", sqlstate=sqlstate(error))
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
        finally:
            if struggling:
                self._count_unsaved(-1)

    @property
    def is_struggling(self) -> bool:
        """Whether a save of this process waits for PostgreSQL."""
        return self._unsaved > 0

    def _count_unsaved(self, change: int) -> None:
        with self._unsaved_lock:
            self._unsaved += change

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in list(self._kept):
            with contextlib.suppress(DBAPIError):
                connection.close()
        self._local = threading.local()
