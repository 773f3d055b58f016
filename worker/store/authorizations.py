"""A consent on its way: its lease, its end, and the new grant over the old one.

The connection's row is locked before the authorization's, everywhere.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Authorized, Event, Hold
from worker import clock
from worker.consent import Callback, Consent, Exchanged, Installed
from worker.store import events, revocations
from worker.store.claims import SAME_DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from worker.attempt import Record
    from worker.consent import NewGrant
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
    ELSE COALESCE(z.reason, 'in_progress') END AS reason,
    CASE WHEN z.outcome = 'connected' THEN z.connection_id END AS connection_id, z.other_connection_id
FROM qbo.authorizations z CROSS JOIN qbo.control g WHERE z.id = %(id)s
"""


def standing(db: Database, authorization_id: int) -> Exchanged:
    """Return where an authorization stands."""
    row = db.execute(_STANDING, {"id": authorization_id}).one_or_none()
    if row is None:
        return Exchanged(authorization_id, None, "unknown_authorization")
    outcome = Authorized(row.outcome) if row.outcome else None
    return Exchanged(authorization_id, outcome, row.reason, row.connection_id, row.other_connection_id)


def unfinished(db: Database, *, limit: int) -> Sequence[int]:
    """Return authorizations that were called back and that nobody works on."""
    rows = db.execute(
        "SELECT id FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL"
        " AND (leased_until IS NULL OR leased_until <= now()) AND (not_before IS NULL OR not_before <= now())"
        " ORDER BY id LIMIT %(limit)s",
        {"limit": limit},
    )
    return [row.id for row in rows]


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
        known, expected = _of_realm(db, called.app_id, realm_hash), _expected(db, row)
        if not row.before and _is_another(expected, known):
            _finish(db, called.authorization_id, Authorized.REFUSED, "wrong_realm", other=known)
            return None
    named = expected is not None and expected == known
    return Consent(called, lease_id, realm_hash, row.claimed_at, opened_at, row.before, row.used_at, named)


def _of_realm(db: Database, app_id: int, realm_hash: bytes) -> int | None:
    row = db.execute(
        "SELECT id FROM qbo.connections WHERE app_id = %(app)s AND realm_hash = %(hash)s",
        {"app": app_id, "hash": realm_hash},
    ).one_or_none()
    return None if row is None else int(row.id)


def _expected(db: Database, authorization: Any) -> int | None:
    """Return the connection that must get the grant; None for a first connection under a name that is free."""
    if authorization.connection_id is not None:
        return int(authorization.connection_id)
    row = db.execute(
        "SELECT connection_id FROM qbo.external_ids WHERE external_id = %(name)s", {"name": authorization.external_id}
    ).one_or_none()
    return None if row is None else int(row.connection_id)


def _is_another(expected: int | None, known: int | None) -> bool:
    return expected is not None and known != expected


_FINISH = """
UPDATE qbo.authorizations
SET outcome = %(outcome)s, reason = %(reason)s, finished_at = now(), code = NULL, realm_id = NULL,
    lease_id = NULL, leased_until = NULL, other_connection_id = %(other)s,
    connection_id = COALESCE(%(connection)s, connection_id)
WHERE id = %(id)s AND outcome IS DISTINCT FROM 'connected'
"""


def _finish(
    db: Database,
    authorization_id: int,
    outcome: Authorized,
    reason: str | None,
    *,
    connection_id: int | None = None,
    other: int | None = None,
) -> None:
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
    _finish(db, authorization_id, Authorized.REFUSED, reason)


def release(db: Database, consent: Consent, *, reason: str, pause: timedelta, presented: bool) -> None:
    """Give the lease back: tried again after the pause. The code was not spent unless `presented`."""
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


_LOCK_CONNECTION = """
SELECT id, status, grant_number, lease_id, realm_hash FROM qbo.connections
WHERE app_id = %(app)s AND realm_hash = %(realm_hash)s FOR UPDATE
"""
# Two consents to one company: the one whose code was presented later has the living grant, whoever saves first.
_LOCK_AUTHORIZATION = """
SELECT z.outcome, z.reason, z.connection_id, z.external_id, z.label, EXISTS (
    SELECT FROM qbo.authorizations o
    WHERE o.app_id = z.app_id AND o.realm_hash = z.realm_hash AND o.id <> z.id AND o.outcome = 'connected'
      AND o.presented_at > z.presented_at) AS superseded
FROM qbo.authorizations z WHERE z.id = %(id)s FOR UPDATE
"""


def install(db: Database, consent: Consent, seal: Callable[[int, int], NewGrant], record: Record) -> Installed:
    """Put the new grant over the old one, or make the connection. One transaction; repeating it changes nothing more.

    A refresh in flight loses its lease and, by the raised version, its comparison. The old token is not revoked:
    Intuit may end the new grant with it.
    """
    app = {"app": consent.callback.app_id, "realm_hash": consent.realm_hash}
    with db.transaction():
        target = db.execute(_LOCK_CONNECTION, app).one_or_none()
        mine = db.execute(_LOCK_AUTHORIZATION, {"id": consent.authorization_id}).one_or_none()
        if mine is None:
            return Installed.GONE
        if mine.outcome == Authorized.CONNECTED:
            return Installed.BEFORE
        if mine.outcome == Authorized.REFUSED and mine.reason == "disconnected":
            if target is not None:
                revocations.add(db, target.id, grant_number=0, refresh_token=seal(target.id, 0).refresh_token)
            return Installed.ENDED
        known = None if target is None else int(target.id)
        if _is_another(_expected(db, mine), known):
            _finish(db, consent.authorization_id, Authorized.REFUSED, "wrong_realm", other=known)
            return Installed.WRONG_REALM
        if mine.superseded and target is None:
            return Installed.GONE
        if target is not None and mine.superseded:
            connection_id, reason, installed = int(target.id), "superseded", Installed.SUPERSEDED
        else:
            connection_id = _put(db, consent, target, seal, record, label=mine.label)
            reason, installed = None, Installed.CONNECTED
        if mine.external_id is not None:
            db.execute(
                "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES (%(name)s, %(id)s)"
                " ON CONFLICT DO NOTHING",
                {"name": mine.external_id, "id": connection_id},
            )
        _finish(db, consent.authorization_id, Authorized.CONNECTED, reason, connection_id=connection_id)
        db.execute(_FORGET_OLD)
        return installed


# Links nobody followed, and consents whose story is told: whoever connects sweeps up a little.
_FORGET_OLD = """
DELETE FROM qbo.authorizations WHERE id IN (
    SELECT id FROM qbo.authorizations
    WHERE created_at < now() - interval '30 days' AND (finished_at IS NOT NULL OR used_at IS NULL) LIMIT 100)
"""
_INSERT = """
INSERT INTO qbo.connections (id, app_id, realm_id, realm_hash, grant_number, token_version)
VALUES (%(id)s, %(app)s, %(realm_id)s, %(realm_hash)s, 1, 1)
"""
# What was known of the older grant goes with it: its clocks, its doubts, its lease, what was told of it.
_PUT = """
UPDATE qbo.connections c SET
    grant_number = %(grant)s, token_version = c.token_version + 1, status = 'active',
    label = COALESCE(c.label, %(label)s), realm_id = %(realm_id)s,
    refresh_token = %(refresh_token)s, refresh_token_fingerprint = %(fingerprint)s, known_fingerprint = %(fingerprint)s,
    previous_refresh_token = NULL, previous_refresh_token_fingerprint = NULL, access_token = %(access_token)s,
    token_obtained_at = now() - %(ago)s::interval,
    access_expires_at = now() - %(ago)s::interval + %(access_lifetime)s::interval,
    refresh_expires_at = now() - %(ago)s::interval + %(refresh_lifetime)s::interval,
    hard_expires_at = now() - %(ago)s::interval + %(hard_lifetime)s::interval,
    expiry_told_days = NULL, second_writer_at = NULL, last_secret = %(secret)s,
    lease_id = NULL, leased_until = NULL, in_doubt = false, queued_until = NULL,
    failures = 0, suspect_since = NULL, needs_reauth_since = NULL, not_before = NULL, taken_over = true,
    next_refresh_at = now() + %(next_refresh_in)s::interval, last_refreshed_at = now(),
    last_outcome = 'refreshed', last_reason = NULL
WHERE c.id = %(id)s
"""
_LEDGER = """
INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, token_version, trigger, worker, began_at, duration_ms,
                                  outcome, http_status, intuit_tid, posts, secret, fingerprint_after, exposed_us)
SELECT %(attempt_id)s, c.id, c.token_version - 1, 'consent', %(worker)s, %(began_at)s, %(duration_ms)s, 'refreshed',
       %(http_status)s, %(intuit_tid)s, %(posts)s, %(secret)s, %(fingerprint)s, %(exposed_us)s
FROM qbo.connections c WHERE c.id = %(id)s
ON CONFLICT (attempt_id) DO NOTHING
"""


def _put(
    db: Database,
    consent: Consent,
    target: Any,
    seal: Callable[[int, int], NewGrant],
    record: Record,
    *,
    label: str | None,
) -> int:
    """Write the grant into the locked connection, or into a new one, and return its id."""
    if target is None:
        new = db.execute("SELECT nextval(pg_get_serial_sequence('qbo.connections', 'id')) AS id").one()
        connection_id, number = int(new.id), 1
        grant = seal(connection_id, number)
        place = {"id": connection_id, "app": consent.callback.app_id, "realm_hash": consent.realm_hash}
        db.execute(_INSERT, {**place, "realm_id": grant.realm_id})
    else:
        connection_id, number = int(target.id), int(target.grant_number) + 1
        grant = seal(connection_id, number)
        write_abandoned(db, connection_id)
    values = {
        "id": connection_id,
        "grant": number,
        "label": label,
        "realm_id": grant.realm_id,
        "refresh_token": grant.refresh_token,
        "fingerprint": grant.fingerprint,
        "access_token": grant.access_token,
        "access_lifetime": grant.access_lifetime,
        "refresh_lifetime": grant.refresh_lifetime,
        "hard_lifetime": grant.hard_lifetime,
        "ago": timedelta(seconds=clock.boottime() - grant.answered_at) if grant.answered_at else timedelta(0),
        "next_refresh_in": grant.next_refresh_in,
        "attempt_id": consent.lease_id,
        "worker": record.worker,
        "began_at": consent.claimed_at,
        "duration_ms": record.duration_ms,
        "http_status": record.http_status,
        "intuit_tid": record.intuit_tid,
        "posts": record.posts,
        "secret": record.secret,
        "exposed_us": record.exposed_us,
    }
    db.execute(_PUT, values)
    db.execute(_LEDGER, values)
    revocations.drop_superseded(db, app_id=consent.callback.app_id, realm_hash=consent.realm_hash)
    db.execute("DELETE FROM qbo.candidates WHERE connection_id = %(id)s", values)
    if target is not None:
        events.emit(db, connection_id, Event.RECONNECTED)
    events.lift(db, connection_id, (Hold.REAUTH, Hold.SUSPECT, Hold.DISCONNECTED))
    return connection_id


def write_abandoned(db: Database, connection_id: int) -> None:
    """Write the attempt that holds the connection's lease into the ledger: it is about to lose it."""
    db.execute(
        "INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, token_version, trigger, worker, began_at,"
        " outcome, reason, fingerprint_before)"
        " SELECT c.lease_id, c.id, c.token_version, c.attempt_trigger, c.attempt_worker, c.attempt_began_at,"
        " 'abandoned', 'overtaken', c.refresh_token_fingerprint FROM qbo.connections c"
        " WHERE c.id = %(id)s AND c.lease_id IS NOT NULL ON CONFLICT (attempt_id) DO NOTHING",
        {"id": connection_id},
    )


def end_all(db: Database, connection_id: int, *, links: bool) -> None:
    """End the consents to a connection's company that are on their way: it was disconnected after they were given.

    A link that has not been called back yet may be a later consent, and stays, unless `links`. A lost consent may yet
    turn up.
    """
    db.execute(
        "UPDATE qbo.authorizations z SET outcome = %(outcome)s, reason = 'disconnected', finished_at = now(),"  # noqa: S608  # constants
        " code = NULL, realm_id = NULL FROM qbo.connections c"
        " WHERE c.id = %(id)s AND (z.used_at IS NOT NULL OR %(links)s)"
        f" AND (z.finished_at IS NULL OR z.outcome = 'lost') AND {OF_COMPANY}",
        {"id": connection_id, "outcome": Authorized.REFUSED, "links": links},
    )
