"""Tokens that may be the live one, until Intuit has said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.attempt import Candidate, Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from worker.attempt import Claim, Received
    from worker.database import Database

# A token that the row already holds is no candidate, and one that was settled stays settled.
_ADD = """
INSERT INTO qbo.candidates (connection_id, grant_number, base_version, source, refresh_token, fingerprint)
SELECT c.id, %(grant)s, %(base)s, %(source)s, %(token)s, %(fingerprint)s
FROM qbo.connections c
WHERE c.id = %(id)s AND c.grant_number = %(grant)s AND c.status <> 'disconnected'
  AND c.refresh_token_fingerprint IS DISTINCT FROM %(fingerprint)s
ON CONFLICT (connection_id, grant_number, fingerprint) DO NOTHING
"""
# A connection that has been given up is asked again too: this may be its live token.
_DUE_NOW = """
UPDATE qbo.connections SET next_refresh_at = now()
WHERE id = %(id)s AND status <> 'disconnected' AND (next_refresh_at IS NULL OR next_refresh_at > now())
"""
# What an attempt received has replaced the row's token; what a file brings may be older than it says.
_REFUSE = """
UPDATE qbo.candidates x SET tried_at = COALESCE(x.tried_at, now()), refused_again_at = CASE
    WHEN s.succeeds AND x.tried_at <= now() - %(confirm_after)s::interval THEN COALESCE(x.refused_again_at, now()) END
FROM (SELECT y.id, y.base_version >= c.token_version AND y.source NOT IN ('import', 'previous') AS succeeds
      FROM qbo.candidates y JOIN qbo.connections c ON c.id = y.connection_id WHERE y.id = %(id)s) s
WHERE x.id = s.id RETURNING x.refused_again_at IS NOT NULL OR NOT s.succeeds AS believed
"""


def add_candidate(
    db: Database,
    *,
    connection_id: int,
    grant_number: int,
    base_version: int,
    source: Source,
    refresh_token: bytes,
    fingerprint: bytes,
) -> bool:
    """Add a candidate; False if the row holds that token, knows it already, or has another grant."""
    added = db.execute(
        _ADD,
        {
            "id": connection_id,
            "grant": grant_number,
            "base": base_version,
            "source": source,
            "token": refresh_token,
            "fingerprint": fingerprint,
        },
    )
    return added.rowcount == 1


def keep(db: Database, received: Received, source: Source) -> None:
    """Keep a received token as a candidate and make the row due now. One transaction."""
    with db.transaction():
        # A verdict that is being written is waited for, and then undone: it did not know of this token.
        db.execute("SELECT FROM qbo.connections WHERE id = %(id)s FOR UPDATE", {"id": received.connection_id})
        added = add_candidate(
            db,
            connection_id=received.connection_id,
            grant_number=received.grant_number,
            base_version=received.base_version,
            source=source,
            refresh_token=received.refresh_token,
            fingerprint=received.fingerprint,
        )
        if added:
            db.execute(_DUE_NOW, {"id": received.connection_id})


def unsettled(db: Database, claim: Claim) -> Sequence[Candidate]:
    """Return the grant's candidates that no success has settled, the one received last first.

    A refused one is among them: if Intuit was wrong, it is the live token.
    """
    rows = db.execute(
        "SELECT id, base_version, refresh_token, fingerprint FROM qbo.candidates"
        " WHERE connection_id = %(id)s AND grant_number = %(grant)s AND settled_at IS NULL"
        " ORDER BY received_at DESC, id DESC",
        {"id": claim.connection_id, "grant": claim.grant_number},
    )
    return [Candidate(row.id, row.base_version, row.refresh_token, row.fingerprint) for row in rows]


def refuse(db: Database, candidate_id: int, *, confirm_after: timedelta) -> bool:
    """Note that Intuit has refused a candidate; True if what comes after it may be presented too.

    One refusal may be a mistake, and a provider that punishes reuse would end the grant on the token that this one has
    replaced: of a successor of the row's token only the second refusal is believed, `confirm_after` after the first.
    """
    believed = db.execute(_REFUSE, {"id": candidate_id, "confirm_after": confirm_after}).scalar_one_or_none()
    return bool(believed)


def settle(db: Database, candidate_ids: Sequence[int]) -> None:
    """Note that a success has made these worthless. They stay: the escrow may bring the same tokens up again."""
    db.execute(
        "UPDATE qbo.candidates SET settled_at = now(), tried_at = COALESCE(tried_at, now())"
        " WHERE id = ANY (%(ids)s::bigint[]) AND settled_at IS NULL",
        {"ids": list(candidate_ids)},
    )
