"""Holds on syncs and rows of the outbox. Callers hold the connection's row lock, so that `sequence` is true.

Placing and lifting a hold writes what people are to be told of it, here and nowhere else: `sync.paused` with the first
hold other than the quiet `suspect`, `sync.resumed` when the last such hold goes. The two take turns.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qbo_refresh.status import OPERATORS, Event, Hold
from worker import log
from worker.moments import to_the_millisecond

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.database import Database

QUIET = frozenset({Hold.SUSPECT})
"""Holds that nobody is told about: they are gone again in minutes, or become another."""


def emit(db: Database, connection_id: int, event: Event, **details: str | float | None) -> None:
    """Write an event of one connection, with the connection's next sequence number; details of None are left out."""
    payload = {name: value for name, value in details.items() if value is not None}
    db.execute(
        "WITH numbered AS (UPDATE qbo.connections SET event_sequence = event_sequence + 1 WHERE id = %(id)s"
        " RETURNING id, event_sequence)"
        " INSERT INTO qbo.outbox (connection_id, sequence, type, payload)"
        " SELECT id, event_sequence, %(type)s, %(payload)s::jsonb FROM numbered",
        {"id": connection_id, "type": event, "payload": json.dumps(payload)},
    )
    _tell_operators(db, event, connection_id=connection_id, **payload)


def emit_for_app(db: Database, event: Event, **payload: str | int) -> None:
    """Write an operators' event that is about an app or the database, and no connection."""
    db.execute(
        "INSERT INTO qbo.outbox (type, payload) VALUES (%(type)s, %(payload)s::jsonb)",
        {"type": event, "payload": json.dumps(payload)},
    )
    _tell_operators(db, event, **payload)


def _tell_operators(db: Database, event: Event, **fields: str | float) -> None:
    """Log an operators' event once it is committed: an error of that name is what Sentry makes an issue of."""
    if event in OPERATORS:
        level = log.info if event is Event.APP_UNBLOCKED else log.error
        db.after_commit(lambda: level(event.value, **fields))


def hold(db: Database, connection_id: int, reason: Hold, *, note: str | None = None) -> bool:
    """Pause a connection's syncs for one more reason; False if they are paused for it already (the note is taken)."""
    standing = holds(db, connection_id)
    if not standing:
        # A run that met the end of the pause before may have been counted after it.
        _take_missed_runs(db, connection_id)
    db.execute(
        "INSERT INTO qbo.sync_holds AS h (connection_id, reason, note) VALUES (%(id)s, %(reason)s, %(note)s)"
        " ON CONFLICT (connection_id, reason) DO UPDATE SET note = COALESCE(EXCLUDED.note, h.note)",
        {"id": connection_id, "reason": reason, "note": note},
    )
    if reason not in QUIET and not standing - QUIET:
        emit(db, connection_id, Event.SYNC_PAUSED, reason=reason)
    return reason not in standing


def lift(db: Database, connection_id: int, reasons: Iterable[Hold]) -> frozenset[Hold]:
    """Lift these reasons alone, and return those that stood."""
    standing = holds(db, connection_id)
    lifted = standing & frozenset(reasons)
    left = standing - lifted
    if lifted:
        db.execute(
            "DELETE FROM qbo.sync_holds WHERE connection_id = %(id)s AND reason = ANY (%(reasons)s)",
            {"id": connection_id, "reasons": [str(reason) for reason in lifted]},
        )
    if lifted - QUIET and not left - QUIET:
        runs, since = _take_missed_runs(db, connection_id)
        emit(db, connection_id, Event.SYNC_RESUMED, missed_runs=runs, missed_since=since)
    elif lifted and not left:
        _take_missed_runs(db, connection_id)  # of a pause that nobody was told about
    return lifted


def holds(db: Database, connection_id: int) -> frozenset[Hold]:
    """Return the reasons that pause a connection's syncs."""
    rows = db.execute("SELECT reason FROM qbo.sync_holds WHERE connection_id = %(id)s", {"id": connection_id})
    return frozenset(Hold(row.reason) for row in rows)


def _take_missed_runs(db: Database, connection_id: int) -> tuple[int, str | None]:
    """Return how many runs a pause has cost, and since when (ISO 8601 UTC, None if none); the count begins anew."""
    row = db.execute(
        "DELETE FROM qbo.missed_runs WHERE connection_id = %(id)s RETURNING runs, since", {"id": connection_id}
    ).one_or_none()
    return (0, None) if row is None else (row.runs, to_the_millisecond(row.since))
