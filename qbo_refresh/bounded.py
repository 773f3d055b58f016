"""A connection to PostgreSQL on which no statement waits for ever, whatever is wrong between here and there.

`statement_timeout` is the server's: one that is frozen, or a pooler whose server is gone, takes our bytes and says
nothing, and neither `tcp_user_timeout` nor keepalives notice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Generator


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
