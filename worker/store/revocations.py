"""Tokens that nobody may have any more, kept sealed until Intuit has been told to end them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from worker.consent import NO_GRANT_YET
from worker.store.claims import SAME_DATABASE, key_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from worker.attempt import Keys
    from worker.database import Database

# A refresh token that nobody uses is dead after 100 days; then there is nothing left to revoke.
_GRANT_LIVES = "interval '100 days'"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One token to revoke.

    Attributes:
        token_version: The version at the end, from which on the escrow may hold newer ones; None if no row has held it.
        refresh_token: Sealed for the connection; None where a consent was ended.
        authorization_id: That consent: what its exchange has left in the escrow is to be revoked. None for a token.
    """

    id: int
    app_id: int
    environment: str
    client_id: str
    connection_id: int
    grant_number: int
    token_version: int | None
    failures: int
    authorization_id: int | None
    refresh_token: bytes | None = field(repr=False)


_ADD = """
INSERT INTO qbo.revocations (app_id, connection_id, grant_number, realm_hash, refresh_token)
SELECT c.app_id, c.id, %(grant)s, c.realm_hash, %(token)s
FROM qbo.connections c WHERE c.id = %(id)s
"""


def add(db: Database, connection_id: int, *, grant_number: int, refresh_token: bytes) -> None:
    """Keep a sealed token that came too late, and the grant that it is sealed for, until it is revoked."""
    values = {"id": connection_id, "grant": grant_number, "token": refresh_token}
    db.execute(_ADD, values)


_ADD_ALL = """
INSERT INTO qbo.revocations (app_id, connection_id, grant_number, token_version, realm_hash, refresh_token,
                             not_before)
SELECT c.app_id, c.id, c.grant_number, c.token_version, c.realm_hash, t.token,
       CASE WHEN c.lease_id IS NOT NULL AND c.leased_until > now() THEN c.leased_until END
FROM qbo.connections c CROSS JOIN LATERAL (
    SELECT c.refresh_token AS token WHERE c.refresh_token IS NOT NULL
    UNION ALL
    SELECT x.refresh_token FROM qbo.candidates x
    WHERE x.connection_id = c.id AND x.grant_number = c.grant_number AND x.settled_at IS NULL
) AS t
WHERE c.id = %(id)s
"""


def add_all(db: Database, connection_id: int) -> None:
    """Keep every token of a connection that may be live until it is revoked. Before it forgets them.

    An attempt in flight may be presenting one of them, and bring another into the escrow, until its lease is over.
    """
    db.execute(_ADD_ALL, {"id": connection_id})


_ADD_CONSENTS = """
INSERT INTO qbo.revocations (app_id, connection_id, grant_number, realm_hash, authorization_id, not_before)
SELECT c.app_id, c.id, %(grant)s, c.realm_hash, z.id, CASE WHEN z.leased_until > now() THEN z.leased_until END
FROM qbo.connections c JOIN qbo.authorizations z ON z.id = ANY (%(consents)s::bigint[])
WHERE c.id = %(id)s
"""


def add_consents(db: Database, connection_id: int, authorization_ids: Sequence[int]) -> None:
    """Keep in mind that exchanges of these ended consents may have left a token in the escrow, or may yet.

    One that is alive brings its own by `add`; a dead one is waited for until its lease is over.
    """
    if authorization_ids:
        values = {"id": connection_id, "grant": NO_GRANT_YET, "consents": list(authorization_ids)}
        db.execute(_ADD_CONSENTS, values)


def drop_superseded(db: Database, *, app_id: int, realm_hash: bytes) -> None:
    """Forget what was to be revoked of a company that has consented anew: it could end the new grant."""
    db.execute(
        "DELETE FROM qbo.revocations WHERE app_id = %(app)s AND realm_hash = %(hash)s",
        {"app": app_id, "hash": realm_hash},
    )


def forget(db: Database, connection_id: int) -> None:
    """Forget what was to be revoked of a connection."""
    db.execute("DELETE FROM qbo.revocations WHERE connection_id = %(id)s", {"id": connection_id})


_DUE = """
    app_id = ANY (%(key_apps)s::int[]) AND (%(connection)s::bigint IS NULL OR connection_id = %(connection)s)
    AND (leased_until IS NULL OR leased_until <= now()) AND (not_before IS NULL OR not_before <= now())
"""
# Not while a person is perhaps consenting anew: the revocation could end that grant, and drops out if it comes.
_CLAIM = f"""
WITH picked AS (
    SELECT r.id FROM qbo.revocations r
    WHERE {_DUE} AND EXISTS (SELECT FROM qbo.control g WHERE NOT g.frozen AND {SAME_DATABASE})
      AND NOT EXISTS (
          SELECT FROM qbo.authorizations z
          WHERE z.app_id = r.app_id AND z.finished_at IS NULL AND (z.used_at IS NOT NULL OR z.expires_at > now())
            AND (z.connection_id = r.connection_id OR z.realm_hash = r.realm_hash))
    ORDER BY r.id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE qbo.revocations r SET leased_until = now() + %(lasts)s::interval
FROM picked, qbo.apps a WHERE r.id = picked.id AND a.id = r.app_id
RETURNING r.id, r.app_id, a.environment, a.client_id, r.connection_id, r.grant_number, r.token_version, r.failures,
          r.authorization_id, r.refresh_token
"""  # noqa: S608  # composed of constants
_DROP = f"""
DELETE FROM qbo.revocations r
WHERE r.created_at < now() - {_GRANT_LIVES} OR EXISTS (
    SELECT FROM qbo.connections c
    WHERE c.app_id = r.app_id AND c.realm_hash = r.realm_hash AND c.status <> 'disconnected')
"""  # noqa: S608  # composed of constants


def claim(
    db: Database, keys: tuple[Keys, ...], *, lasts: timedelta, connection_id: int | None = None
) -> Revocation | None:
    """Take the lease of a token that is to be revoked now; those that a later consent has ended by itself are dropped.

    Args:
        db: The database.
        keys: The apps whose secrets are here.
        lasts: How long a revocation may take.
        connection_id: Of this connection alone; None for all.
    """
    db.execute(_DROP)
    row = db.execute(_CLAIM, {"lasts": lasts, "connection": connection_id, **key_arrays(keys)}).one_or_none()
    return Revocation(**row._mapping) if row is not None else None  # noqa: SLF001  # SQLAlchemy's public name for it


def done(db: Database, revocation: Revocation) -> None:
    """Forget a revoked token."""
    db.execute("DELETE FROM qbo.revocations WHERE id = %(id)s", {"id": revocation.id})


def failed(db: Database, revocation: Revocation, *, pause: timedelta) -> None:
    """Put one off that Intuit has not acknowledged."""
    db.execute(
        "UPDATE qbo.revocations SET leased_until = NULL, failures = failures + 1,"
        " not_before = now() + %(pause)s::interval WHERE id = %(id)s",
        {"id": revocation.id, "pause": pause},
    )


def pending(db: Database, connection_id: int) -> int:
    """Return how many tokens of a connection wait to be revoked."""
    row = db.execute(
        "SELECT count(*) AS n FROM qbo.revocations WHERE connection_id = %(id)s", {"id": connection_id}
    ).one()
    return int(row.n)


def any_due(db: Database, keys: tuple[Keys, ...]) -> bool:
    """Tell whether anything is to be revoked now."""
    statement = f"SELECT EXISTS (SELECT FROM qbo.revocations WHERE {_DUE}) AS found"  # noqa: S608  # constants
    return bool(db.execute(statement, {"connection": None, **key_arrays(keys)}).one().found)
