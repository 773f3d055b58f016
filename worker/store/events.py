"""Holds on syncs and rows of the outbox. Callers hold the connection's row lock, so that `sequence` is true."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qbo_refresh.status import OPERATORS, Event, Hold
from worker import log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.database import Database


def emit(db: Database, connection_id: int, event: Event, **payload: str | int | None) -> None:
    """Write an event of one connection, with the connection's next sequence number. What is None is left out."""
    said = {name: value for name, value in payload.items() if value is not None}
    db.execute(
        "WITH numbered AS (UPDATE qbo.connections SET event_sequence = event_sequence + 1 WHERE id = %(id)s"
        " RETURNING id, event_sequence)"
        " INSERT INTO qbo.outbox (connection_id, sequence, type, payload)"
        " SELECT id, event_sequence, %(type)s, %(payload)s::jsonb FROM numbered",
        {"id": connection_id, "type": event, "payload": json.dumps(said)},
    )
    _tell_operators(db, event, connection_id=connection_id, **said)


def emit_for_app(db: Database, event: Event, **payload: str | int) -> None:
    """Write an operators' event that is about an app or the database, and no connection."""
    db.execute(
        "INSERT INTO qbo.outbox (type, payload) VALUES (%(type)s, %(payload)s::jsonb)",
        {"type": event, "payload": json.dumps(payload)},
    )
    _tell_operators(db, event, **payload)


def _tell_operators(db: Database, event: Event, **fields: str | int) -> None:
    """Log an operators' event once it is committed: an error of that name is what Sentry makes an issue of."""
    if event in OPERATORS:
        level = log.info if event is Event.APP_UNBLOCKED else log.error
        db.after_commit(lambda: level(event.value, **fields))


def hold(db: Database, connection_id: int, reason: Hold) -> None:
    """Pause a connection's syncs for one more reason; nothing changes if they are paused for it already."""
    db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, %(reason)s) ON CONFLICT DO NOTHING",
        {"id": connection_id, "reason": reason},
    )


def lift(db: Database, connection_id: int, reasons: Iterable[Hold]) -> frozenset[Hold]:
    """Lift these reasons alone, and return those that stood."""
    rows = db.execute(
        "DELETE FROM qbo.sync_holds WHERE connection_id = %(id)s AND reason = ANY (%(reasons)s) RETURNING reason",
        {"id": connection_id, "reasons": [str(reason) for reason in reasons]},
    )
    return frozenset(Hold(row.reason) for row in rows)


def is_held(db: Database, connection_id: int) -> bool:
    """Tell whether any hold stands."""
    row = db.execute(
        "SELECT EXISTS (SELECT FROM qbo.sync_holds WHERE connection_id = %(id)s) AS held", {"id": connection_id}
    ).one()
    return bool(row.held)
