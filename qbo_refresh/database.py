"""A host's process's way to the worker's PostgreSQL, and the statements that it needs there.

Connections of its own, outside the host's transactions; a few for each process, made when they are needed; each
statement a transaction; no session state, and nothing prepared where PgBouncer is between. Safe after a fork.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from qbo_refresh import configuration
from qbo_refresh.bounded import BoundedConnection, Overdue, may_pass
from qbo_refresh.errors import ConfigurationError, QboRefreshError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qbo_refresh.configuration import Configuration

_TABLE = re.compile(r"\bqbo\.")
_NO_TABLE, _NO_SCHEMA, _NO_COLUMN, _NO_PRIVILEGE = "42P01", "3F000", "42703", "42501"
_PREPARE_AFTER = 3  # executions
# A line that is half-open, or a server that is frozen, says nothing: nobody who waits for a token waits longer for it.
STATEMENT_S = 5.0
_OPTIONS: dict[str, Any] = {
    "prepare_threshold": None,
    "connect_timeout": 3,
    "application_name": "qbo-refresh-client",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
}


class DatabaseAway(QboRefreshError):
    """PostgreSQL cannot be reached, or cannot do this now."""


class Database:
    """One process's connections."""

    def __init__(self, config: Configuration) -> None:
        self._config = config
        self._pool = QueuePool(
            self._connect,
            pool_size=config.pool_size,
            max_overflow=0,
            timeout=_OPTIONS["connect_timeout"],
            use_lifo=True,
            reset_on_return=None,  # in autocommit there is nothing to roll back
        )

    def rows(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Run one statement and return its rows. One that changes something must bear being repeated.

        Args:
            statement: SQL with `qbo.` before each table and psycopg's `%(name)s` for parameters.
            parameters: Their values.

        Raises:
            DatabaseAway: PostgreSQL cannot be reached, or cannot do this now.
            ConfigurationError: It has no such tables, or the role may not use them.
        """
        statement = self._in_schema(statement)
        for _ in range(self._config.pool_size):
            with contextlib.suppress(_Stale):
                return self._run(statement, parameters)
        # All that were kept had been cut off: what is left is one made just now.
        try:
            return self._run(statement, parameters)
        except _Stale:
            raise DatabaseAway("PostgreSQL cut the connection off.") from None

    def row(self, statement: str, parameters: Mapping[str, Any]) -> Any:
        """Run one statement as `rows` does, and return its first row, or None."""
        found = self.rows(statement, parameters)
        return found[0] if found else None

    def close(self) -> None:
        """Close the connections that nobody is using."""
        self._pool.dispose()

    def _in_schema(self, statement: str) -> str:
        return statement if self._config.schema == "qbo" else _TABLE.sub(f'"{self._config.schema}".', statement)

    def _connect(self) -> Any:
        # The driver's frames and texts can hold the password: they are not chained to what is raised.
        try:
            made = BoundedConnection.connect(
                self._config.database_url.reveal(), autocommit=True, row_factory=namedtuple_row, **_OPTIONS
            )
            made.statement_s = STATEMENT_S
            # Planning is two thirds of what a read costs. A pooler gives its clients a process id that is not the
            # server's, and hands each statement to another server, where nothing is prepared.
            if made.execute("SELECT pg_backend_pid() AS pid").fetchall()[0].pid == made.info.backend_pid:
                made.prepare_threshold = _PREPARE_AFTER
        except psycopg.OperationalError:
            raise DatabaseAway("PostgreSQL at DATABASE_URL cannot be reached.") from None
        except psycopg.Error:
            raise ConfigurationError(
                "DATABASE_URL is malformed: write special characters as %40 and the like."
            ) from None
        else:
            return made

    def _run(self, statement: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        with self._connection() as connection:
            try:
                cursor = connection.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []
            except Overdue:
                # What else is kept has probably died of the same.
                self._pool.dispose()
                raise DatabaseAway("PostgreSQL did not answer in time.") from None
            except psycopg.Error as error:
                raise _translated(error) from None

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            borrowed = self._pool.connect()
        except PoolTimeoutError:
            raise DatabaseAway("All of this process's connections to PostgreSQL are in use.") from None
        driver: Any = borrowed.driver_connection
        try:
            yield driver
        finally:
            if driver.closed or driver.broken:
                borrowed.invalidate()
            borrowed.close()


class _Stale(Exception):  # as all of ours
    """The connection was cut off while it was kept."""


def _translated(error: psycopg.Error) -> Exception:
    state = error.sqlstate
    if state in (_NO_TABLE, _NO_SCHEMA, _NO_COLUMN):
        return ConfigurationError(
            "The worker's tables are missing or older than this code: check DATABASE_SCHEMA, run `qbo-refresh migrate`."
        )
    if state == _NO_PRIVILEGE:
        return ConfigurationError("The role of DATABASE_URL may not do this: see `qbo-refresh roles`.")
    if _is_cut_off(error):
        return _Stale()
    if state is not None and may_pass(state):
        return DatabaseAway(f"PostgreSQL cannot do this now (SQLSTATE {state}).")
    return error


def _is_cut_off(error: psycopg.Error) -> bool:
    if error.sqlstate is not None:
        return error.sqlstate[:2] in ("08", "57")
    # Of its own accord the driver also raises for parameters that it cannot send: those never pass. Of the plain class
    # is what libpq says where the server has said nothing: a connection that was lost while the answer was read.
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) or type(error) is psycopg.DatabaseError


_database: Database | None = None
_made_for: Configuration | None = None
_inherited: list[Database] = []
_lock = threading.Lock()


def database() -> Database:
    """Return this process's way to the database of the current configuration.

    Raises:
        ConfigurationError, BadKeys: As `configuration.current`.
    """
    global _database, _made_for  # one for the process, by design
    config = configuration.current()
    if _made_for is not config or _database is None:
        with _lock:
            if _made_for is not config or _database is None:
                if _database is not None:
                    _database.close()
                _database, _made_for = Database(config), config
    return _database


def _after_fork() -> None:
    """Leave the parent's connections alone: not closed, not used, and never collected."""
    global _database, _made_for, _lock  # as above
    if _database is not None:
        _inherited.append(_database)
    _database, _made_for, _lock = None, None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
