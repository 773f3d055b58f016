"""The connections one after the other, for people and programs. Realm ids and tokens are not read at all."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from worker.database import Database

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which connections; what is None or False does not count."""

    status: str | None = None
    label: str | None = None
    due: bool = False
    held: bool = False
    frozen: bool = False
    second_writer: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """One connection as `list` shows it.

    Attributes:
        due_at: When it is refreshed next; None for never.
        leased: An attempt is under way.
        at: The database's time when it was read.
    """

    id: int
    environment: str
    label: str | None
    external_ids: tuple[str, ...]
    status: str
    holds: tuple[str, ...]
    frozen: bool
    leased: bool
    in_doubt: bool
    due_at: datetime | None
    last_refreshed_at: datetime | None
    last_outcome: str | None
    last_reason: str | None
    access_expires_at: datetime | None
    refresh_expires_at: datetime | None
    hard_expires_at: datetime | None
    hard_expires_inferred: bool
    at: datetime


_ROWS = """
SELECT c.id, a.environment, c.label, c.status, c.frozen, c.lease_id IS NOT NULL AND c.leased_until > now() AS leased,
       c.in_doubt, c.due_at, c.last_refreshed_at, c.last_outcome, c.last_reason, c.access_expires_at,
       c.refresh_expires_at, c.hard_expires_at, c.hard_expires_inferred, now() AS at,
       ARRAY(SELECT x.external_id FROM qbo.external_ids x WHERE x.connection_id = c.id ORDER BY 1) AS external_ids,
       ARRAY(SELECT h.reason FROM qbo.sync_holds h WHERE h.connection_id = c.id ORDER BY 1) AS holds
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id
WHERE {where} ORDER BY c.id LIMIT %(limit)s
"""
_COUNT = "SELECT count(*) AS n FROM (SELECT FROM qbo.connections c WHERE {where} LIMIT %(limit)s) AS found"


def _where(which: Filter) -> str:
    """Return the condition in terms of constants: an unused filter must not keep the planner from an index."""
    conditions = ["c.id > %(after)s"]
    if which.status is not None:
        conditions.append("c.status = %(status)s")
    if which.label is not None:
        conditions.append("c.label = %(label)s")
    if which.due:
        conditions.append("c.due_at <= now() AND NOT c.frozen")
    if which.held:
        conditions.append("EXISTS (SELECT FROM qbo.sync_holds h WHERE h.connection_id = c.id)")
    if which.frozen:
        conditions.append("c.frozen")
    if which.second_writer:
        conditions.append("c.second_writer_at IS NOT NULL")
    return " AND ".join(conditions)


def connections(db: Database, which: Filter, *, limit: int | None) -> Iterator[Listed]:
    """Yield connections by id, at most `limit` of them (None: all), in batches: a million take the memory of one."""
    statement = _ROWS.format(where=_where(which))
    after, left = 0, limit
    while left is None or left > 0:
        batch = _BATCH if left is None else min(_BATCH, left)
        rows = db.execute(statement, _values(which, after, batch)).all()
        for row in rows:
            given = row._mapping  # noqa: SLF001  # SQLAlchemy's public name for it
            values = {field.name: given[field.name] for field in fields(Listed)}
            yield Listed(**values | {"external_ids": tuple(row.external_ids), "holds": tuple(row.holds)})
        if len(rows) < batch:
            return
        after = rows[-1].id
        left = None if left is None else left - len(rows)


def count_after(db: Database, which: Filter, *, after: int, at_most: int) -> int:
    """Return how many more connections there are above an id; counting stops at `at_most`."""
    return int(db.execute(_COUNT.format(where=_where(which)), _values(which, after, at_most)).one().n)


def _values(which: Filter, after: int, limit: int) -> dict[str, object]:
    return {"status": which.status, "label": which.label, "after": after, "limit": limit}
