"""Reads the outbox for a host that asks instead of being told: in the order of the ids, and none left out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbo_refresh.database import database
from qbo_refresh.status import OPERATORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

_PATIENCE_S = 2.0
_LOOK_EVERY_S = 0.02

_NEWEST = "SELECT max(id) AS id FROM qbo.outbox"
_WRITERS = """
SELECT virtualtransaction AS name FROM pg_locks
WHERE locktype = 'relation' AND relation = 'qbo.outbox'::regclass AND mode = 'RowExclusiveLock'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_EVENTS = """
SELECT id, type, connection_id, sequence, payload, created_at FROM qbo.outbox
WHERE id > %(after)s AND id <= %(newest)s AND type <> ALL (%(operators)s) ORDER BY id LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """Something that happened to a connection; docs/integrating.md lists the types.

    Attributes:
        id: Grows; never used twice. What `events(after=…)` is given next.
        sequence: Numbers the events of one connection.
        payload: What belongs to it, by type.
    """

    id: int
    type: str
    connection_id: int | None
    sequence: int | None
    payload: Mapping[str, Any]
    created_at: datetime


def read(after: int, limit: int) -> Sequence[OutboxEvent]:
    """Return what happened after an event, oldest first; nothing while an older one may still be on its way.

    An id is drawn before its transaction commits: one that commits late would be passed over by who reads on from a
    higher id. So whoever writes when the highest id is read has to end first; those who begin later draw higher ones.
    """
    newest = database().row(_NEWEST, {}).id
    if newest is None or newest <= after or _somebody_writes():
        return []
    values = {"after": after, "newest": newest, "limit": limit, "operators": [str(event) for event in OPERATORS]}
    return [OutboxEvent(*row) for row in database().rows(_EVENTS, values)]


def _somebody_writes() -> bool:
    """Wait for those who write now, for two seconds at most, and tell whether any still does."""
    end = time.monotonic() + _PATIENCE_S
    writing = _writers()
    while writing and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)
        writing &= _writers()
    return bool(writing)


def _writers() -> set[str]:
    return {row.name for row in database().rows(_WRITERS, {})}
