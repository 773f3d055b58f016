"""A second writer: somebody else who rotates a grant of ours. An old system that still runs, or a copy of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.status import Event
from worker.store import events

if TYPE_CHECKING:
    from worker.database import Database

_NOTE = """
UPDATE qbo.connections SET second_writer_at = now() WHERE id = %(id)s AND second_writer_at IS NULL
RETURNING last_refreshed_at
"""


def report(db: Database, connection_id: int, *, seen: str) -> None:
    """Note that a token of this grant came from elsewhere, and tell operators, once for each grant.

    The caller owns the transaction.

    Args:
        db: The database.
        connection_id: Our id of it.
        seen: Where: in the `row`, or in an `import`.
    """
    row = db.execute(_NOTE, {"id": connection_id}).one_or_none()
    if row is not None:
        ours = row.last_refreshed_at and row.last_refreshed_at.isoformat(timespec="seconds")
        events.emit(db, connection_id, Event.SECOND_WRITER, seen=seen, we_refreshed_last_at=ours)
