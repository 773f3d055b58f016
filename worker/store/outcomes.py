"""Writing down what an attempt came to: a save compares version and token, a failure the lease and the version.

A late success is kept and a late failure is dropped: a token in hand outranks a lost lease. The version alone does not
tell whether the row is still the claimed one: a failover that loses commits lets the same number come again. And a row
that holds the very token which an attempt presented is behind what that attempt brought, whatever its version.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from qbo_refresh.status import Event, Hold, Status
from worker import clock, policy
from worker.attempt import Saved, Source
from worker.policy import expiry
from worker.store import apps, events, revocations, verdicts
from worker.store.candidates import add_candidate, settle

if TYPE_CHECKING:
    from worker.attempt import Claim, Record, SealedGrant
    from worker.database import Database
    from worker.policy import Decision, Pace

# The pair of tokens, whatever else its answer said.
_SET_PAIR = """
    refresh_token = %(refresh_token)s, refresh_token_fingerprint = %(fingerprint)s,
    previous_refresh_token = CASE WHEN %(rotated)s THEN %(presented)s ELSE c.previous_refresh_token END,
    previous_refresh_token_fingerprint =
        CASE WHEN %(rotated)s THEN %(presented_fingerprint)s ELSE c.previous_refresh_token_fingerprint END,
    known_fingerprint = %(fingerprint)s, access_token = %(access_token)s, token_version = c.token_version + 1,
    -- A late success leaves the lease to who took over: it may be presenting this very token, from the escrow.
    lease_id = CASE WHEN c.lease_id <> %(attempt_id)s THEN c.lease_id END,
    leased_until = CASE WHEN c.lease_id <> %(attempt_id)s THEN c.leased_until END,
    in_doubt = false, suspect_since = NULL
"""
_SET_TOKENS = f"""
    {_SET_PAIR},
    token_obtained_at = now() - %(answered_ago)s::interval,
    access_expires_at = now() - %(answered_ago)s::interval + %(access_lifetime)s::interval,
    -- An answer that does not say leaves what an earlier one said.
    refresh_expires_at =
        COALESCE(now() - %(answered_ago)s::interval + %(refresh_lifetime)s::interval, c.refresh_expires_at),
    -- Seconds left are counted from the answer: an end that is the same but for that stays as it is.
    hard_expires_at = CASE
        WHEN NOT isfinite(c.hard_expires_at) THEN now() - %(answered_ago)s::interval + %(hard_lifetime)s::interval
        WHEN abs(extract(epoch FROM now() + %(hard_lifetime)s::interval - c.hard_expires_at)) <= %(same_end_s)s
            THEN c.hard_expires_at
        ELSE COALESCE(now() - %(answered_ago)s::interval + %(hard_lifetime)s::interval, c.hard_expires_at) END,
    hard_expires_inferred = COALESCE(%(hard_inferred)s::boolean, c.hard_expires_inferred),
    expiry_told_days = COALESCE(%(expiry_told_days)s::smallint, c.expiry_told_days),
    last_secret = encode(%(secret_hash)s::bytea, 'hex'), needs_reauth_since = NULL, not_before = NULL, failures = 0,
    status = 'active',
    next_refresh_at = now() + %(next_refresh_in)s::interval, last_refreshed_at = now(),
    last_outcome = 'refreshed', last_reason = %(reason)s
"""

_LEDGER_COLUMNS = """
    (attempt_id, connection_id, token_version, trigger, worker, began_at, duration_ms, outcome, reason, http_status,
     intuit_tid, posts, secret, fingerprint_before, fingerprint_after, exposed_us, withheld)
"""
_LEDGER_VALUES = """
    %(attempt_id)s, %(id)s, %(version)s, %(trigger)s, %(worker)s, %(began_at)s, %(duration_ms)s, %(outcome)s,
    %(reason)s, %(http_status)s, %(intuit_tid)s, %(posts)s, %(secret)s, %(fingerprint_before)s,
    %(fingerprint_after)s::bytea, %(exposed_us)s::bigint, %(withheld)s::text
"""
# The same attempt may have been called abandoned meanwhile: what it says of itself is better.
_LEDGER_CONFLICT = """
    ON CONFLICT (attempt_id) DO UPDATE SET duration_ms = EXCLUDED.duration_ms, outcome = EXCLUDED.outcome,
        reason = EXCLUDED.reason, http_status = EXCLUDED.http_status, intuit_tid = EXCLUDED.intuit_tid,
        posts = EXCLUDED.posts, secret = EXCLUDED.secret, fingerprint_after = EXCLUDED.fingerprint_after,
        exposed_us = EXCLUDED.exposed_us, withheld = EXCLUDED.withheld
"""

# The ordinary success, in one statement: nothing to lift, nobody to tell, the lease still ours. One statement is one
# transaction. Whatever it does not cover matches no row, and `_save_fully` finds out why.
_SAVE_PLAINLY = f"""
WITH saved AS (
    UPDATE qbo.connections c SET {_SET_TOKENS}
    WHERE c.id = %(id)s AND c.token_version = %(version)s AND c.lease_id = %(attempt_id)s AND c.status = 'active'
      AND c.refresh_token_fingerprint IS NOT DISTINCT FROM %(claimed)s
      AND NOT EXISTS (SELECT FROM qbo.app_blocks b WHERE b.app_id = c.app_id AND b.secret_hash = %(secret_hash)s)
    RETURNING c.id
)
INSERT INTO qbo.refresh_attempts {_LEDGER_COLUMNS} SELECT {_LEDGER_VALUES} FROM saved RETURNING connection_id
"""  # noqa: S608  # composed of the constants above

_LOCK = """
SELECT c.status, c.token_version, c.refresh_token_fingerprint,
       EXISTS (SELECT FROM qbo.refresh_attempts r WHERE r.attempt_id = %(attempt_id)s AND r.outcome = 'refreshed')
           AS applied
FROM qbo.connections c WHERE c.id = %(id)s FOR UPDATE
"""
_UPDATE_TOKENS = f"UPDATE qbo.connections c SET {_SET_TOKENS} WHERE c.id = %(id)s"  # noqa: S608  # constants
_WRITE_LEDGER = f"INSERT INTO qbo.refresh_attempts {_LEDGER_COLUMNS} VALUES ({_LEDGER_VALUES}) {_LEDGER_CONFLICT}"  # noqa: S608


def save(db: Database, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
    """Put a new grant's tokens into the row if they come right after what it holds. One transaction."""
    values = _grant_values(claim, grant) | _ledger_values(claim, decision, record)
    values["fingerprint_after"] = grant.received.fingerprint
    values["next_refresh_in"] = decision.next_refresh_in
    values["expiry_told_days"] = decision.expiry_told_days
    plain = not (claim.has_candidates or grant.candidate_ids or decision.events)
    if plain and db.fetch_one(_SAVE_PLAINLY, values) is not None:
        return Saved.SAVED
    with db.transaction():
        return _save_fully(db, claim, grant, decision, values)


def _save_fully(db: Database, claim: Claim, grant: SealedGrant, decision: Decision, values: dict[str, Any]) -> Saved:
    row = db.execute(_LOCK, values).one_or_none()
    if row is None:
        return Saved.GONE
    if row.applied:
        return Saved.BEFORE
    if not _is_next(row, claim, grant):
        _release(db, claim)
        lost = _lost(row.status, row.refresh_token_fingerprint, grant)
        if lost is Saved.DISCONNECTED:
            revocations.add(
                db,
                claim.connection_id,
                grant_number=claim.grant_number,
                refresh_token=grant.received.refresh_token,
            )
        return lost
    db.execute(_UPDATE_TOKENS, values)
    db.execute(_WRITE_LEDGER, values | {"version": row.token_version})
    settle(db, grant.candidate_ids)
    if row.status == Status.NEEDS_REAUTH:
        events.emit(db, claim.connection_id, Event.RECOVERED)
    events.lift(db, claim.connection_id, (Hold.REAUTH, Hold.SUSPECT))
    if decision.expiry_told_days is not None:
        _announce_expiry(db, claim.connection_id, days=decision.expiry_told_days)
    apps.unblock(db, claim, values["secret_hash"])
    return Saved.SAVED


def _is_next(row: Any, claim: Claim, grant: SealedGrant) -> bool:
    """Whether the new tokens come right after what the row holds: what was claimed, or the very one that was presented.

    The second, when another's late save has put there, meanwhile, what this attempt had found in the escrow.
    """
    if (row.token_version, row.refresh_token_fingerprint) == (claim.token_version, claim.fingerprint):
        return True
    if row.status == Status.DISCONNECTED or not grant.rotated:
        return False
    return bool(row.refresh_token_fingerprint == grant.presented[1])


def _announce_expiry(db: Database, connection_id: int, *, days: int) -> None:
    row = db.execute(
        "SELECT hard_expires_at, hard_expires_inferred FROM qbo.connections WHERE id = %(id)s", {"id": connection_id}
    ).one()
    ends = row.hard_expires_at and row.hard_expires_at.astimezone(UTC).isoformat(timespec="seconds")
    inferred = row.hard_expires_inferred
    events.emit(db, connection_id, Event.EXPIRING, days=days, hard_expires_at=ends, hard_expires_inferred=inferred)


def _lost(status: str, fingerprint: bytes | None, grant: SealedGrant) -> Saved:
    if status == Status.DISCONNECTED:
        return Saved.DISCONNECTED
    return Saved.BEFORE if fingerprint == grant.received.fingerprint else Saved.OVERTAKEN


# An attempt that began has a line, also if what it brought was not written: a reader of the ledger counts posts by it.
_WRITE_OVERTAKEN = """
INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, token_version, trigger, worker, began_at, outcome, reason)
SELECT c.lease_id, c.id, %(version)s, c.attempt_trigger, c.attempt_worker, c.attempt_began_at,
       'abandoned', 'overtaken'
FROM qbo.connections c WHERE c.id = %(id)s AND c.lease_id = %(lease)s
ON CONFLICT (attempt_id) DO NOTHING
"""


def _release(db: Database, claim: Claim) -> None:
    """Give up a lease that was overtaken: left in the row it would look like an attempt that died."""
    values = {"id": claim.connection_id, "lease": claim.lease_id, "version": claim.token_version}
    db.execute(_WRITE_OVERTAKEN, values)
    db.execute(
        "UPDATE qbo.connections SET lease_id = NULL, leased_until = NULL WHERE id = %(id)s AND lease_id = %(lease)s",
        values,
    )


_SAVE_BARE = f"""
UPDATE qbo.connections c SET
    {_SET_PAIR},
    access_expires_at = now(), refresh_expires_at = NULL, token_obtained_at = now(), next_refresh_at = now()
WHERE c.id = %(id)s
  AND (c.token_version = %(version)s AND c.refresh_token_fingerprint IS NOT DISTINCT FROM %(claimed)s
       OR %(rotated)s AND c.status <> 'disconnected' AND c.refresh_token_fingerprint = %(presented_fingerprint)s)
"""  # noqa: S608  # composed of constants


def save_bare(db: Database, claim: Claim, grant: SealedGrant) -> Saved:
    """Save the tokens alone, with unknown lifetimes: the whole save was refused for a reason that will not pass."""
    values = _grant_values(claim, grant)
    if db.execute(_SAVE_BARE, values).rowcount == 1:
        return Saved.SAVED
    found = "SELECT status, refresh_token_fingerprint AS fingerprint FROM qbo.connections WHERE id = %(id)s"
    row = db.execute(found, values).one_or_none()
    return Saved.GONE if row is None else _lost(row.status, row.fingerprint, grant)


_CONCLUDE = """
UPDATE qbo.connections c
SET status = %(status)s, failures = %(failures)s, last_outcome = %(outcome)s, last_reason = %(reason)s,
    next_refresh_at = now() + %(next_refresh_in)s::interval, not_before = now() + %(not_before_in)s::interval,
    suspect_since = CASE WHEN %(status)s = 'suspect' THEN COALESCE(c.suspect_since, now()) ELSE c.suspect_since END,
    needs_reauth_since = CASE WHEN %(status)s = 'needs_reauth' THEN COALESCE(c.needs_reauth_since, now()) END,
    in_doubt = (c.in_doubt OR %(keep_lease)s) AND %(status)s <> 'needs_reauth',
    lease_id = CASE WHEN %(keep_lease)s THEN c.lease_id END,
    leased_until = CASE WHEN %(keep_lease)s THEN c.leased_until END
WHERE c.id = %(id)s AND c.lease_id = %(attempt_id)s AND c.token_version = %(version)s
RETURNING c.previous_refresh_token, c.previous_refresh_token_fingerprint
"""


def conclude(db: Database, claim: Claim, decision: Decision, record: Record, *, pace: Pace) -> Decision | None:
    """Write what a failure changes, in one transaction, and return it.

    It is another decision if something stands against a verdict, and None if lease or version are no longer the
    claimed ones.
    """
    with db.transaction():
        if decision.status is Status.NEEDS_REAUTH:
            found = verdicts.evidence(db, claim)
            if found is None:
                return None
            decision = policy.judge(decision, claim.standing, found, pace=pace)
        return decision if _conclude(db, claim, decision, record) else None


def _conclude(db: Database, claim: Claim, decision: Decision, record: Record) -> bool:
    values = _ledger_values(claim, decision, record) | {
        "status": decision.status,
        "failures": decision.failures,
        "next_refresh_in": decision.next_refresh_in,
        "not_before_in": decision.not_before_in,
        "keep_lease": decision.keep_lease,
        "fingerprint_after": None,
    }
    row = db.execute(_CONCLUDE, values).one_or_none()
    if row is None:
        # In doubt the lease stands: the token may be the row's by now, and Intuit may still be at it.
        if not decision.keep_lease:
            _release(db, claim)
        return False
    db.execute(_WRITE_LEDGER, values)
    if decision.present_previous and row.previous_refresh_token is not None:
        add_candidate(
            db,
            connection_id=claim.connection_id,
            grant_number=claim.grant_number,
            base_version=claim.token_version - 1,
            source=Source.PREVIOUS,
            refresh_token=row.previous_refresh_token,
            fingerprint=row.previous_refresh_token_fingerprint,
        )
    if decision.status is Status.SUSPECT and claim.standing.suspect_since is None:
        verdicts.note_suspect(db, claim)
    for event in decision.events:
        events.emit(db, claim.connection_id, event, reason=decision.reason)
    if decision.hold is not None:
        events.hold(db, claim.connection_id, decision.hold)
    if decision.hold is Hold.REAUTH:
        # After the other hold stands: the runs that were missed while it was suspect belong to this pause.
        events.lift(db, claim.connection_id, (Hold.SUSPECT,))
    if decision.throttle is not None:
        apps.throttle(db, claim.app_id, pause=decision.throttle)
    return True


def _grant_values(claim: Claim, grant: SealedGrant) -> dict[str, Any]:
    return {
        "id": claim.connection_id,
        "claimed": claim.fingerprint,
        "attempt_id": claim.lease_id,
        "version": claim.token_version,
        "refresh_token": grant.received.refresh_token,
        "fingerprint": grant.received.fingerprint,
        "rotated": grant.rotated,
        "presented": grant.presented[0],
        "presented_fingerprint": grant.presented[1],
        "access_token": grant.access_token,
        "access_lifetime": grant.access_lifetime,
        "refresh_lifetime": grant.refresh_lifetime,
        "hard_lifetime": grant.hard_lifetime,
        "hard_inferred": grant.hard_inferred,
        "same_end_s": expiry.SAME.total_seconds(),
        # Lifetimes count from the answer: a save that had to wait for the database must not make them longer.
        "answered_ago": timedelta(seconds=clock.boottime() - grant.answered_at) if grant.answered_at else timedelta(0),
    }


def _ledger_values(claim: Claim, decision: Decision, record: Record) -> dict[str, Any]:
    return {
        "attempt_id": claim.lease_id,
        "id": claim.connection_id,
        "version": claim.token_version,
        "trigger": claim.trigger,
        "worker": record.worker,
        "began_at": claim.claimed_at,
        "duration_ms": record.duration_ms,
        "outcome": decision.outcome,
        "reason": decision.reason,
        "http_status": record.http_status,
        "intuit_tid": record.intuit_tid,
        "posts": record.posts,
        "secret": record.secret,
        "secret_hash": record.secret_hash,
        "fingerprint_before": claim.fingerprint,
        "exposed_us": record.exposed_us,
        "withheld": decision.withheld,
    }
