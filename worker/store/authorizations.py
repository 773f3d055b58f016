"""A consent on its way: its lease and its end. `installing` puts the grant that comes of it into its connection.

The connection's row is locked before the authorization's, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Authorized
from worker.consent import Callback, Consent, Exchanged
from worker.store import apps
from worker.store.claims import SAME_DATABASE, key_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from uuid import UUID

    from worker.attempt import Keys
    from worker.database import Database

# The consents `z` to the company of a connection `c`; a first connection's names none.
OF_COMPANY = "(z.connection_id = c.id OR (z.app_id = c.app_id AND z.realm_hash = c.realm_hash))"


def callback(db: Database, authorization_id: int) -> Callback | None:
    """Return what the redirect brought; None if it brought nothing yet, or is finished."""
    row = db.execute(
        "SELECT z.id AS authorization_id, z.app_id, a.environment, a.client_id, z.redirect_url, z.code, z.realm_id"
        " FROM qbo.authorizations z JOIN qbo.apps a ON a.id = z.app_id"
        " WHERE z.id = %(id)s AND z.used_at IS NOT NULL AND z.finished_at IS NULL",
        {"id": authorization_id},
    ).one_or_none()
    return Callback(**row._mapping) if row is not None else None  # noqa: SLF001  # SQLAlchemy's public name for it


_STANDING = """
SELECT z.outcome, CASE
    WHEN z.outcome IS NOT NULL THEN z.reason
    WHEN z.used_at IS NULL THEN 'not_called_back'
    WHEN g.frozen THEN 'frozen'
    WHEN z.leased_until > now() THEN 'in_progress'
    WHEN a.throttled_until > now() THEN 'throttled'
    ELSE COALESCE(z.reason, 'in_progress') END AS reason,
    CASE WHEN z.outcome = 'connected' THEN z.connection_id END AS connection_id, z.other_connection_id
FROM qbo.authorizations z JOIN qbo.apps a ON a.id = z.app_id CROSS JOIN qbo.control g WHERE z.id = %(id)s
"""


def standing(db: Database, authorization_id: int) -> Exchanged:
    """Return where an authorization stands."""
    row = db.execute(_STANDING, {"id": authorization_id}).one_or_none()
    if row is None:
        return Exchanged(authorization_id, None, "unknown_authorization")
    outcome = Authorized(row.outcome) if row.outcome else None
    return Exchanged(authorization_id, outcome, row.reason, row.connection_id, row.other_connection_id)


def unfinished(db: Database, keys: tuple[Keys, ...], *, limit: int) -> Sequence[int]:
    """Return authorizations of our apps that were called back and that nobody works on."""
    rows = db.execute(
        "SELECT id FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL"
        " AND app_id = ANY (%(key_apps)s::int[])"
        " AND (leased_until IS NULL OR leased_until <= now()) AND (not_before IS NULL OR not_before <= now())"
        " ORDER BY id LIMIT %(limit)s",
        {"limit": limit, **key_arrays(keys)},
    )
    return [row.id for row in rows]


def end_expired(db: Database, *, lives: timedelta) -> int:
    """End those whose code nobody could present while it was good, and return how many.

    Whoever has no key or no secret for one leaves it to others. If there is no other, it would wait for ever, its code
    too, and in the way of those that can go.
    """
    return db.execute(
        "UPDATE qbo.authorizations SET outcome = %(outcome)s, reason = 'expired', finished_at = now(), code = NULL,"
        " realm_id = NULL, lease_id = NULL, leased_until = NULL"
        " WHERE used_at < now() - %(lives)s::interval AND finished_at IS NULL AND presented_at IS NULL",
        {"outcome": Authorized.REFUSED, "lives": lives},
    ).rowcount


# One consent to a company at a time, as Intuit's order is that of the exchanges: under a lock by the realm's hash, for
# the connection may not exist yet. A revocation of the company's older grant under way is waited for, too.
_LOCK_REALM = "SELECT pg_advisory_xact_lock(('x' || encode(substr(%(realm_hash)s, 1, 8), 'hex'))::bit(64)::bigint)"
# Of a company one code is presented at a time: also one whose consent a disconnect has ended may be on its way.
_CLAIM = f"""
UPDATE qbo.authorizations z
SET lease_id = %(lease)s, leased_until = now() + %(lasts)s::interval, realm_hash = %(realm_hash)s,
    presented_at = COALESCE(z.presented_at, now()), reason = NULL,
    presented_by = CASE WHEN z.presented_at IS NULL THEN %(worker)s ELSE z.presented_by END
FROM (SELECT presented_at IS NOT NULL AND lease_id IS DISTINCT FROM %(lease)s AS before
      FROM qbo.authorizations WHERE id = %(id)s) AS was
WHERE z.id = %(id)s AND z.used_at IS NOT NULL AND z.finished_at IS NULL
  AND (z.lease_id IS NULL OR z.leased_until <= now() OR z.lease_id = %(lease)s)
  AND (z.not_before IS NULL OR z.not_before <= now())
  AND EXISTS (SELECT FROM qbo.control g WHERE NOT g.frozen AND {SAME_DATABASE})
  AND NOT EXISTS (SELECT FROM qbo.apps a WHERE a.id = z.app_id AND a.throttled_until > now())
  AND NOT EXISTS (SELECT FROM qbo.authorizations o
                  WHERE o.app_id = z.app_id AND o.realm_hash = %(realm_hash)s AND o.id <> z.id
                    AND o.leased_until > now())
  AND NOT EXISTS (SELECT FROM qbo.revocations r
                  WHERE r.app_id = z.app_id AND r.realm_hash = %(realm_hash)s AND r.leased_until > now())
RETURNING was.before, now() AS claimed_at, z.used_at, z.connection_id, z.external_id
"""  # noqa: S608  # composed of constants


def claim(
    db: Database,
    called: Callback,
    *,
    lease_id: UUID,
    lasts: timedelta,
    opened_at: float,
    realm_hash: bytes,
    worker: str,
) -> Consent | None:
    """Take the authorization's lease; None if it must not be exchanged, or not now. One transaction.

    Another company than the expected one ends it here: its code is not presented.
    """
    values = {
        "id": called.authorization_id,
        "lease": lease_id,
        "lasts": lasts,
        "realm_hash": realm_hash,
        "worker": worker,
    }
    with db.transaction():
        db.execute(_LOCK_REALM, values)
        row = db.execute(_CLAIM, values).one_or_none()
        if row is None:
            return None
        known, wanted = _of_realm(db, called.app_id, realm_hash), expected(db, row)
        if not row.before and wanted is not None and known != wanted:
            end(db, called.authorization_id, Authorized.REFUSED, "wrong_realm", other=known)
            return None
    named = wanted is not None and wanted == known
    return Consent(called, lease_id, realm_hash, row.claimed_at, opened_at, row.before, row.used_at, named)


def _of_realm(db: Database, app_id: int, realm_hash: bytes) -> int | None:
    row = db.execute(
        "SELECT id FROM qbo.connections WHERE app_id = %(app)s AND realm_hash = %(hash)s",
        {"app": app_id, "hash": realm_hash},
    ).one_or_none()
    return None if row is None else int(row.id)


def expected(db: Database, authorization: Any) -> int | None:
    """Return the connection that must get the grant; None for a first connection under a name that is free."""
    if authorization.connection_id is not None:
        return int(authorization.connection_id)
    row = db.execute(
        "SELECT connection_id FROM qbo.external_ids WHERE external_id = %(name)s", {"name": authorization.external_id}
    ).one_or_none()
    return None if row is None else int(row.connection_id)


_FINISH = """
UPDATE qbo.authorizations
SET outcome = %(outcome)s, reason = %(reason)s, finished_at = now(), code = NULL, realm_id = NULL,
    lease_id = NULL, leased_until = NULL, other_connection_id = %(other)s,
    connection_id = COALESCE(%(connection)s, connection_id)
WHERE id = %(id)s AND outcome IS DISTINCT FROM 'connected'
"""


def end(
    db: Database,
    authorization_id: int,
    outcome: Authorized,
    reason: str | None,
    *,
    connection_id: int | None = None,
    other: int | None = None,
) -> None:
    """Write what became of an authorization, whoever has its lease, and forget code and realm id.

    Args:
        db: The database.
        authorization_id: Which.
        outcome: What became of it.
        reason: In a word.
        connection_id: The connection that has the grant.
        other: Whose company it was instead of the expected one.
    """
    values = {"outcome": outcome, "reason": reason, "connection": connection_id, "other": other}
    db.execute(_FINISH, {"id": authorization_id, **values})


def finish(db: Database, consent: Consent, outcome: Authorized, reason: str) -> None:
    """Write that no grant comes of it, and forget code and realm id, unless another attempt has the lease."""
    db.execute(
        _FINISH + " AND lease_id = %(lease)s",
        {
            "id": consent.authorization_id,
            "outcome": outcome,
            "reason": reason,
            "connection": None,
            "other": None,
            "lease": consent.lease_id,
        },
    )


def reject(db: Database, authorization_id: int, reason: str) -> None:
    """Write that one was refused before it could be claimed."""
    end(db, authorization_id, Authorized.REFUSED, reason)


def release(db: Database, consent: Consent, *, reason: str, pause: timedelta, presented: bool, throttles: bool) -> None:
    """Give the lease back: tried again after the pause. The code was not spent unless `presented`.

    With `throttles` the whole app pauses for as long.
    """
    if throttles:
        apps.throttle(db, consent.callback.app_id, pause=pause)
    db.execute(
        "UPDATE qbo.authorizations SET lease_id = NULL, leased_until = NULL, not_before = now() + %(pause)s::interval,"
        " reason = %(reason)s, presented_at = CASE WHEN %(presented)s THEN presented_at END"
        " WHERE id = %(id)s AND lease_id = %(lease)s",
        {
            "id": consent.authorization_id,
            "lease": consent.lease_id,
            "pause": pause,
            "reason": reason,
            "presented": presented,
        },
    )


def of_company(db: Database, connection_id: int) -> Sequence[int]:
    """Return the ids of all consents to a connection's company."""
    rows = db.execute(
        f"SELECT z.id FROM qbo.authorizations z, qbo.connections c WHERE c.id = %(id)s AND {OF_COMPANY}",  # noqa: S608  # constants
        {"id": connection_id},
    )
    return [row.id for row in rows]


def end_all(db: Database, connection_id: int, *, links: bool) -> Sequence[int]:
    """End the consents to a connection's company that are on their way: it was disconnected after they were given.

    A link that has not been called back yet may be a later consent, and stays, unless `links`. A lost consent may yet
    turn up.

    Returns:
        The ids of those whose code may have been presented: a live token may come of them, or lie in the escrow.
    """
    ended = db.execute(
        "UPDATE qbo.authorizations z SET outcome = %(outcome)s, reason = 'disconnected', finished_at = now(),"  # noqa: S608  # constants
        " code = NULL, realm_id = NULL FROM qbo.connections c"
        " WHERE c.id = %(id)s AND (z.used_at IS NOT NULL OR %(links)s)"
        f" AND (z.finished_at IS NULL OR z.outcome = 'lost') AND {OF_COMPANY}"
        " RETURNING z.id, z.presented_at",
        {"id": connection_id, "outcome": Authorized.REFUSED, "links": links},
    )
    return [row.id for row in ended if row.presented_at is not None]
