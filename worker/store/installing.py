"""A new grant over the old one, or into a new connection. That row is locked before the authorization's."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Authorized, Event, Hold
from worker import clock
from worker.consent import Installed
from worker.store import apps, authorizations, claims, events, revocations

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.attempt import Record
    from worker.consent import Consent, NewGrant
    from worker.database import Database

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
        expected = authorizations.expected(db, mine)
        if expected is not None and known != expected:
            authorizations.end(db, consent.authorization_id, Authorized.REFUSED, "wrong_realm", other=known)
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
        authorizations.end(db, consent.authorization_id, Authorized.CONNECTED, reason, connection_id=connection_id)
        if record.secret_hash is not None:
            apps.unblock(db, consent.callback, record.secret_hash)
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
    hard_expires_inferred = false, expiry_told_days = NULL, second_writer_at = NULL,
    last_secret = encode(%(secret_hash)s::bytea, 'hex'),
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
        claims.write_abandoned(db, connection_id)
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
        "secret_hash": record.secret_hash,
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
