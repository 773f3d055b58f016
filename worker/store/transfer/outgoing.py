"""Connections on their way out: read in the order of their ids, and frozen in the transaction that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Choice:
    """Which connections.

    Attributes:
        ids: These; None for all.
        label: Those with this label; None for all.
        taken_over: Only those that no old refresher has.
    """

    ids: Sequence[int] | None = None
    label: str | None = None
    taken_over: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One connection as it stands, sealed.

    Attributes:
        hard_expires_at: None also if nobody has said it: `hard_expires_inferred`.
        unsettled: An attempt is under way or in doubt, or a token waits to be tried: the row's may not be the live one.
    """

    id: int
    environment: str
    client_id: str
    label: str | None
    status: Status
    grant_number: int
    realm_id: bytes
    refresh_token: bytes
    access_token: bytes | None
    token_obtained_at: datetime | None
    access_expires_at: datetime | None
    refresh_expires_at: datetime | None
    hard_expires_at: datetime | None
    frozen: bool
    unsettled: bool
    external_ids: Sequence[str]


# An attempt under way or in doubt, or a candidate that may be the live token: it is untried, or refused while the row's
# own token still stands. Of a connection that was given up what was refused is no longer waited for.
UNSETTLED = """
    c.lease_id IS NOT NULL OR c.in_doubt OR EXISTS (
        SELECT FROM qbo.candidates x
        WHERE x.connection_id = c.id AND x.grant_number = c.grant_number AND x.settled_at IS NULL
          AND (x.tried_at IS NULL OR c.status <> 'needs_reauth'))
"""
# A disconnected connection has no token to take along.
_NEXT = """
SELECT id FROM qbo.connections
WHERE id > %(after)s AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
  AND (%(label)s::text IS NULL OR label = %(label)s) AND refresh_token IS NOT NULL
  AND (taken_over OR NOT %(taken_over)s)
ORDER BY id LIMIT %(limit)s
"""
_READ = f"""
SELECT c.id, a.environment, a.client_id, c.label, c.status, c.grant_number, c.realm_id, c.refresh_token, c.access_token,
       c.token_obtained_at, c.access_expires_at, c.refresh_expires_at, c.frozen,
       CASE WHEN NOT c.hard_expires_inferred THEN c.hard_expires_at END AS hard_expires_at,
       {UNSETTLED} AS unsettled,
       ARRAY(SELECT e.external_id FROM qbo.external_ids e WHERE e.connection_id = c.id ORDER BY 1) AS external_ids
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id
WHERE c.id = ANY (%(ids)s::bigint[]) AND c.refresh_token IS NOT NULL ORDER BY c.id
"""  # noqa: S608  # composed of constants


def read(db: Database, choice: Choice, *, after: int, limit: int, lock: bool) -> list[Outgoing]:
    """Return the chosen connections behind an id that have a token, the lowest ids first.

    Args:
        db: The database.
        choice: Which.
        after: The last id of the batch before; 0 for the first.
        limit: At most so many.
        lock: Keep workers from claiming them until the transaction ends.
    """
    values = _values(choice) | {"after": after}
    # Locked first and read in a second statement: it sees what a worker has saved while we waited for its lock.
    rows = db.execute(_NEXT + (" FOR UPDATE" if lock else ""), values | {"limit": limit}).all()
    return [
        Outgoing(**{**row._mapping, "status": Status(row.status)})  # noqa: SLF001  # SQLAlchemy's public name for it
        for row in db.execute(_READ, {"ids": [row.id for row in rows]})
    ]


def freeze(db: Database, ids: Sequence[int]) -> int:
    """Freeze these connections, and return how many were not frozen yet."""
    return db.execute(
        "UPDATE qbo.connections SET frozen = true WHERE id = ANY (%(ids)s::bigint[]) AND NOT frozen", {"ids": list(ids)}
    ).rowcount


def left_out(db: Database, choice: Choice) -> tuple[int, int]:
    """Return how many of the chosen have no token, for they were disconnected, and how many an old refresher has."""
    row = db.execute(
        "SELECT count(*) FILTER (WHERE refresh_token IS NULL) AS without_token,"
        " count(*) FILTER (WHERE refresh_token IS NOT NULL AND NOT taken_over AND %(taken_over)s) AS not_taken_over"
        " FROM qbo.connections WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))"
        " AND (%(label)s::text IS NULL OR label = %(label)s)",
        _values(choice),
    ).one()
    return int(row.without_token), int(row.not_taken_over)


def _values(choice: Choice) -> dict[str, object]:
    ids = None if choice.ids is None else list(choice.ids)
    return {"ids": ids, "label": choice.label, "taken_over": choice.taken_over}
