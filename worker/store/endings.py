"""The end of a connection, or of one of its names. Each function is one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Hold, Status
from worker.store import authorizations, claims, events, fleet, revocations

if TYPE_CHECKING:
    from worker.database import Database

_FORGET = """
UPDATE qbo.connections SET
    status = 'disconnected', token_version = token_version + 1, refresh_token = NULL, refresh_token_fingerprint = NULL,
    known_fingerprint = NULL, previous_refresh_token = NULL, previous_refresh_token_fingerprint = NULL,
    access_token = NULL, access_expires_at = NULL, refresh_expires_at = NULL, hard_expires_at = NULL,
    hard_expires_inferred = false, expiry_told_days = NULL, second_writer_at = NULL, lease_id = NULL,
    leased_until = NULL, in_doubt = false,
    next_refresh_at = NULL, not_before = NULL, queued_until = NULL, failures = 0, suspect_since = NULL,
    needs_reauth_since = NULL, last_reason = 'disconnected'
WHERE id = %(id)s
"""


def disconnect(db: Database, connection_id: int, *, revoke: bool, to_delete: bool) -> str | None:
    """Forget a connection's tokens and hold its syncs.

    An attempt in flight loses its lease and, by the raised version, its comparison.

    Args:
        db: The database.
        connection_id: Which.
        revoke: What may be live waits in `revocations`; else it stays as it is at Intuit.
        to_delete: Links to reconnect that nobody has followed yet are void, too, and nothing is done while something
            is under way: it would come back with a token of a row that is gone.

    Returns:
        None if that was done; `unknown_connection` or `disconnected` if there was nothing to do; `in_flight`.
    """
    with db.transaction():
        row = db.execute(
            "SELECT status FROM qbo.connections WHERE id = %(id)s FOR UPDATE", {"id": connection_id}
        ).one_or_none()
        if row is None:
            return "unknown_connection"
        if to_delete and _is_in_flight(db, connection_id):
            return "in_flight"
        # A consent may be under way over a connection that has been ended before.
        consents = authorizations.end_all(db, connection_id, links=to_delete)
        if revoke:
            revocations.add_consents(db, connection_id, consents)
        if row.status == Status.DISCONNECTED:
            return "disconnected"
        if revoke:
            revocations.add_all(db, connection_id)
        claims.write_abandoned(db, connection_id)
        db.execute("DELETE FROM qbo.candidates WHERE connection_id = %(id)s", {"id": connection_id})
        db.execute(_FORGET, {"id": connection_id})
        events.emit(db, connection_id, Event.DISCONNECTED)
        events.hold(db, connection_id, Hold.DISCONNECTED)
        events.lift(db, connection_id, (Hold.REAUTH, Hold.SUSPECT))
        return None


def _is_in_flight(db: Database, connection_id: int) -> bool:
    """Tell whether an attempt, an exchange or a revocation of this connection is under way."""
    row = db.execute(
        "SELECT EXISTS (SELECT FROM qbo.connections WHERE id = %(id)s AND leased_until > now())"  # noqa: S608  # constants
        " OR EXISTS (SELECT FROM qbo.authorizations z JOIN qbo.connections c ON c.id = %(id)s"
        f"            WHERE z.leased_until > now() AND {authorizations.OF_COMPANY})"
        " OR EXISTS (SELECT FROM qbo.revocations WHERE connection_id = %(id)s AND leased_until > now()) AS found",
        {"id": connection_id},
    ).one()
    return bool(row.found)


def leave(db: Database, connection_id: int, external_id: str) -> str | None:
    """Take one of several external ids away from a connection.

    Returns:
        None if it has left; `last` if it is the only one, and stays; `unknown_external_id` if it is not one.
    """
    with db.transaction():
        # Two of them leaving at once: the second finds itself the last.
        fleet.lock(db, connection_id)
        names = db.execute(
            "SELECT external_id FROM qbo.external_ids WHERE connection_id = %(id)s", {"id": connection_id}
        )
        mine = {row.external_id for row in names}
        if external_id not in mine:
            return "unknown_external_id"
        if len(mine) == 1:
            return "last"
        db.execute("DELETE FROM qbo.external_ids WHERE external_id = %(name)s", {"name": external_id})
        return None


@dataclass(frozen=True, slots=True)
class Deleted:
    """How much was deleted.

    Attributes:
        undelivered: Events that nobody has been told of.
    """

    connections: int
    attempts: int
    events: int
    undelivered: int


def delete(db: Database, connection_id: int) -> Deleted:
    """Delete everything about a connection: its row, names, holds, candidates, consents, events and ledger."""
    with db.transaction():
        values = {"id": connection_id}
        fleet.lock(db, connection_id)
        told = db.execute(
            "SELECT count(*) AS n, count(*) FILTER (WHERE delivered_at IS NULL) AS undelivered FROM qbo.outbox"
            " WHERE connection_id = %(id)s",
            values,
        ).one()
        db.execute(
            "DELETE FROM qbo.authorizations z USING qbo.connections c"  # noqa: S608  # constants
            f" WHERE c.id = %(id)s AND {authorizations.OF_COMPANY}",
            values,
        )
        revocations.forget(db, connection_id)
        attempts = db.execute("DELETE FROM qbo.refresh_attempts WHERE connection_id = %(id)s", values).rowcount
        rows = db.execute("DELETE FROM qbo.connections WHERE id = %(id)s", values).rowcount
        return Deleted(rows, attempts, told.n, told.undelivered)
