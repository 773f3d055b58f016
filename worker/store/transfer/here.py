"""What is here already of the connections, tokens and names that a block of lines is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbo_refresh.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from worker.database import Database


@dataclass(frozen=True, slots=True)
class Found:
    """A connection that is here already.

    Attributes:
        knows_token: The token it was asked about was its own before, or waits to be tried.
    """

    id: int
    status: Status
    fingerprint: bytes | None
    grant_number: int
    token_obtained_at: datetime | None
    knows_token: bool


# %()b hands the arrays over in binary: as text each value would be quoted one by one.
_FIND = """
SELECT c.id, c.app_id, c.realm_hash, c.status, c.refresh_token_fingerprint, c.grant_number, c.token_obtained_at,
       c.refresh_token_fingerprint IS DISTINCT FROM k.fingerprint AND (
           c.previous_refresh_token_fingerprint = k.fingerprint
           OR EXISTS (SELECT FROM qbo.candidates x WHERE x.connection_id = c.id AND x.fingerprint = k.fingerprint)
           OR EXISTS (SELECT FROM qbo.refresh_attempts r WHERE r.connection_id = c.id
                      AND k.fingerprint IN (r.fingerprint_before, r.fingerprint_after))) AS knows_token,
       k.fingerprint AS asked
FROM unnest(%(apps)b::int[], %(realms)b::bytea[], %(fingerprints)b::bytea[]) AS k (app_id, realm_hash, fingerprint)
JOIN qbo.connections c ON c.app_id = k.app_id AND c.realm_hash = k.realm_hash
"""

Key = tuple[int, bytes, bytes]
"""App, hash of the realm, fingerprint of the refresh token."""


def find(db: Database, keys: Sequence[Key]) -> dict[Key, Found]:
    """Return the connections of these apps and realms that are here, and whether they know these tokens."""
    rows = db.execute(
        _FIND,
        {
            "apps": [key[0] for key in keys],
            "realms": [key[1] for key in keys],
            "fingerprints": [key[2] for key in keys],
        },
    )
    return {
        (row.app_id, row.realm_hash, row.asked): Found(
            row.id,
            Status(row.status),
            row.refresh_token_fingerprint,
            row.grant_number,
            row.token_obtained_at,
            bool(row.knows_token),
        )
        for row in rows
    }


def holders(db: Database, fingerprints: Sequence[bytes]) -> dict[bytes, list[int]]:
    """Return which connections hold these refresh tokens now."""
    held: dict[bytes, list[int]] = {}
    for row in db.execute(
        "SELECT id, refresh_token_fingerprint AS fingerprint FROM qbo.connections"
        " WHERE refresh_token_fingerprint = ANY (%(fingerprints)b::bytea[])",
        {"fingerprints": list(fingerprints)},
    ):
        held.setdefault(row.fingerprint, []).append(row.id)
    return held


def named(db: Database, external_ids: Sequence[str]) -> dict[str, int]:
    """Return which connections these external ids name."""
    rows = db.execute(
        "SELECT external_id, connection_id FROM qbo.external_ids WHERE external_id = ANY (%(ids)b::text[])",
        {"ids": list(external_ids)},
    )
    return {row.external_id: row.connection_id for row in rows}


def reserve_ids(db: Database, count: int) -> Iterator[int]:
    """Return so many ids of connections that are nobody's: a blob is sealed for the id of its row."""
    rows = db.execute(
        "SELECT nextval(pg_get_serial_sequence('qbo.connections', 'id')::regclass) AS id"
        " FROM generate_series(1, %(count)s)",
        {"count": count},
    )
    return iter([row.id for row in rows])
