"""An operator's holds: the syncs of a connection pause until the same reason is lifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Hold
from worker.store import events, fleet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.database import Database


@dataclass(slots=True)
class Held:
    """What came of it.

    Attributes:
        changed: Connections on which the operator's hold was placed, or lifted.
        still_held: Connections whose syncs stay paused for another reason.
    """

    changed: int = 0
    still_held: int = 0


def hold(db: Database, connection_ids: Iterable[int], *, note: str | None = None) -> Held:
    """Pause the syncs of these connections. One transaction for each, so that no refresh waits for long."""
    result = Held()
    for connection_id in connection_ids:
        with db.transaction():
            if fleet.lock(db, connection_id):
                result.changed += events.hold(db, connection_id, Hold.OPERATOR, note=note)
    return result


def resume(db: Database, connection_ids: Iterable[int]) -> Held:
    """Lift the operator's hold, and no other, from these connections."""
    result = Held()
    for connection_id in connection_ids:
        with db.transaction():
            if fleet.lock(db, connection_id):
                result.changed += len(events.lift(db, connection_id, (Hold.OPERATOR,)))
                result.still_held += bool(events.holds(db, connection_id))
    return result
