"""A connection to PostgreSQL on which no statement waits for ever, and which of its errors may pass.

`statement_timeout` is the server's: one that is frozen, or a pooler whose server is gone, takes our bytes and says
nothing, and neither `tcp_user_timeout` nor keepalives notice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator


# Connection, rollback, resources, intervention, system; then: read-only, a lock, sessions that took or waited too long.
_PASSING_CLASSES = ("08", "40", "53", "57", "58")
_PASSING = ("25006", "25P03", "25P04", "55P03")


def may_pass(sqlstate: str) -> bool:
    """Tell whether the same statement may succeed later: the connection, a lock, a full disk, a shutdown."""
    return sqlstate[:2] in _PASSING_CLASSES or sqlstate in _PASSING


class Overdue(psycopg.OperationalError):
    """The answer to a statement did not come in time; it may have been carried out. The connection is closed."""


class BoundedConnection(psycopg.Connection[Any]):
    """Gives up a statement that has had no answer for `statement_s` seconds."""

    statement_s = 20.0

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        """Wait as psycopg does, which asks the generator ten times a second, but not for ever."""
        return super().wait(self._until_overdue(gen), *args, **kwargs)

    def _until_overdue(self, waiting: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        end = time.monotonic() + self.statement_s
        try:
            wanted = next(waiting)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > end:
                    self.close()
                    raise Overdue("PostgreSQL did not answer in time")
                wanted = waiting.send(ready)
        except StopIteration as done:
            return done.value
