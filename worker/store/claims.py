"""Taking a lease on a connection: one guarded statement by the database's clock, and why it came to nothing."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from qbo_refresh.status import Status
from worker.attempt import Claim, Freshness, Keys, Trigger
from worker.policy import LONGEST_LEASE, Standing
from worker.policy.expiry import Clocks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta
    from uuid import UUID

    from worker.database import Database

# The database itself is compared first: another cluster, or a timeline that nobody has noticed yet, gives no lease, and
# neither does a new epoch before every lease of the old one is over. What the server does not tell is not compared.
SAME_DATABASE = """
    COALESCE((SELECT qbo.system_identifier()) = g.system_identifier, true)
    AND COALESCE((SELECT qbo.timeline()) = g.timeline, true)
    AND (g.epoch_since IS NULL OR g.epoch_since <= now() - %(lasts)s::interval)
"""
# One of the app's secrets that are here (`key_arrays`) is not blocked.
IS_USABLE = """
    EXISTS (SELECT FROM unnest(%(key_apps)s::int[], %(key_hashes)s::bytea[]) AS k (app_id, hash)
            WHERE k.app_id = {0} AND NOT EXISTS (
                SELECT FROM qbo.app_blocks b
                WHERE b.app_id = k.app_id AND b.secret_hash = k.hash AND b.blocked_at IS NOT NULL))
"""
# now() is the statement's start: if it had to wait for the row, the lease ends early, never late. Over a dead lease the
# attempt that held it is written down as abandoned; one that had said its word itself is in the ledger already.
# is_new_epoch: the connection's first attempt in a young epoch, or none yet that could ask the escrow and lived to say
# so. Of that, and of is_taken_over, a repeated claim cannot tell and says yes. LIMIT 1 is for the planner: of the one
# control row it knows nothing, and with what it guesses it reads all connections of a small fleet for each claim.
_CLAIM = f"""
WITH held AS MATERIALIZED (
    SELECT c.id, c.app_id, c.lease_id, c.attempt_began_at, c.attempt_trigger, c.attempt_worker, c.token_version,
           c.refresh_token_fingerprint, a.environment, a.client_id,
           COALESCE(g.epoch_since > now() - interval '30 days'
                    AND (c.attempt_began_at IS NULL OR c.attempt_began_at < g.epoch_since OR c.lease_id = %(lease)s
                         OR c.last_reason = 'escrow_silent'
                         OR c.lease_id IS NOT NULL AND NOT EXISTS (
                             SELECT FROM qbo.refresh_attempts r WHERE r.connection_id = c.id
                             AND r.began_at >= g.epoch_since AND r.outcome <> 'abandoned')),
                    false) AS is_new_epoch,
           ARRAY(SELECT b.secret_hash FROM qbo.app_blocks b WHERE b.app_id = c.app_id AND b.blocked_at IS NOT NULL)
               AS blocked,
           {IS_USABLE.format("c.app_id")} AS usable
    FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id JOIN qbo.control g ON NOT g.frozen AND {SAME_DATABASE}
    WHERE c.id = %(id)s
      AND (c.lease_id IS NULL OR c.leased_until <= now() OR c.lease_id = %(lease)s)
      AND c.next_refresh_at IS NOT NULL AND NOT c.frozen
      AND (c.not_before IS NULL OR c.not_before <= now())
      AND (a.throttled_until IS NULL OR a.throttled_until <= now())
      AND c.app_id = ANY (%(key_apps)s::int[])
      AND CASE WHEN %(max_age)s::interval IS NULL THEN c.next_refresh_at <= now()
               ELSE (c.attempt_began_at IS NULL OR c.attempt_began_at <= now() - %(max_age)s::interval
                     OR c.lease_id = %(lease)s)
                    AND (%(min_ttl)s::interval IS NULL OR c.access_expires_at IS NULL
                         OR c.access_expires_at <= now() + %(min_ttl)s::interval) END
    LIMIT 1 FOR UPDATE OF c
), probe AS (
    UPDATE qbo.app_blocks b SET probe_at = now() + %(probe_every)s::interval
    FROM held WHERE b.app_id = held.app_id AND b.secret_hash = ANY (%(key_hashes)s::bytea[])
      AND b.blocked_at IS NOT NULL AND b.probe_at <= now()
    RETURNING b.app_id
), claimed AS (
    UPDATE qbo.connections c
    SET lease_id = %(lease)s, leased_until = now() + %(lasts)s::interval, queued_until = NULL,
        in_doubt = c.in_doubt OR (held.lease_id IS NOT NULL AND held.lease_id <> %(lease)s),
        next_refresh_at = LEAST(c.next_refresh_at, now()),
        attempt_began_at = now(), attempt_trigger = %(trigger)s, attempt_worker = %(worker)s
    FROM held
    WHERE c.id = held.id AND (held.usable OR EXISTS (SELECT FROM probe))
    RETURNING c.*, held.environment, held.client_id, held.blocked, held.is_new_epoch,
              held.lease_id IS NOT NULL AS is_taken_over
), abandoned AS (
    INSERT INTO qbo.refresh_attempts (attempt_id, connection_id, token_version, trigger, worker, began_at, outcome,
                                      fingerprint_before)
    SELECT held.lease_id, held.id, held.token_version, held.attempt_trigger, held.attempt_worker,
           held.attempt_began_at, 'abandoned', held.refresh_token_fingerprint
    FROM held JOIN claimed ON claimed.id = held.id
    WHERE held.lease_id IS NOT NULL AND held.lease_id <> %(lease)s
    ON CONFLICT (attempt_id) DO NOTHING
)
SELECT id, app_id, environment, client_id, status, grant_number, token_version, refresh_token,
       refresh_token_fingerprint, in_doubt, failures, suspect_since, needs_reauth_since, last_reason,
       refresh_expires_at, hard_expires_at, token_obtained_at,
       expiry_told_days, attempt_began_at, blocked,
       is_new_epoch, is_taken_over,
       second_writer_at IS NULL AND known_fingerprint <> refresh_token_fingerprint AS is_foreign,
       EXISTS (SELECT FROM probe) AS probing,
       EXISTS (SELECT FROM qbo.candidates x WHERE x.connection_id = claimed.id AND x.settled_at IS NULL)
           AS has_candidates
FROM claimed
"""  # noqa: S608  # composed of constants
# psycopg parses a statement of more than 4096 characters anew each time.
_CLAIM = " ".join(_CLAIM.split())


def claim(
    db: Database,
    connection_id: int,
    *,
    lease_id: UUID,
    lasts: timedelta,
    opened_at: float,
    trigger: Trigger,
    worker: str,
    freshness: Freshness,
    keys: tuple[Keys, ...],
    probe_every: timedelta,
) -> Claim | None:
    """Take the connection's lease; None if it may not be refreshed now, whatever the reason.

    Repeating it with the same `lease_id` returns the lease that an unacknowledged try may have taken.
    """
    row = db.fetch_one(
        _CLAIM,
        {
            "id": connection_id,
            "lease": lease_id,
            "lasts": lasts,
            "trigger": trigger,
            "worker": worker,
            "max_age": freshness.max_age,
            "min_ttl": freshness.min_ttl,
            "probe_every": probe_every,
            **key_arrays(keys),
        },
    )
    if row is None:
        return None
    standing = Standing(
        connection_id=row.id,
        status=Status(row.status),
        failures=row.failures,
        in_doubt=row.in_doubt,
        is_taken_over=row.is_taken_over,
        suspect_since=row.suspect_since,
        needs_reauth_since=row.needs_reauth_since,
        reason=row.last_reason,
        clocks=Clocks(row.refresh_expires_at, row.hard_expires_at, row.token_obtained_at, row.expiry_told_days),
    )
    return Claim(
        lease_id=lease_id,
        trigger=trigger,
        claimed_at=row.attempt_began_at,
        opened_at=opened_at,
        app_id=row.app_id,
        environment=row.environment,
        client_id=row.client_id,
        grant_number=row.grant_number,
        token_version=row.token_version,
        refresh_token=row.refresh_token,
        fingerprint=row.refresh_token_fingerprint,
        standing=standing,
        blocked=frozenset(row.blocked),
        probing=row.probing,
        has_candidates=row.has_candidates,
        is_new_epoch=row.is_new_epoch,
        is_foreign=bool(row.is_foreign),
    )


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


# No lease is that long: a hand wrote it, or the database's clock was stepped back under it. In the second case somebody
# may hold it this very moment, so that it is not taken for over: it ends one longest lease after it was noticed, which
# is after the end of any that was taken before. Of each app the 10,000 most overdue rows are looked at, those that are
# late by so much: ordinarily there are none.
_SHORTEN = """
UPDATE qbo.connections SET leased_until = now() + %(longest)s::interval
WHERE leased_until > now() + %(longest)s::interval AND id IN (
    SELECT late.id FROM (SELECT DISTINCT unnest(%(key_apps)s::int[])) AS k (app_id) CROSS JOIN LATERAL (
        SELECT id FROM qbo.connections
        WHERE app_id = k.app_id AND due_at <= now() - %(longest)s::interval AND NOT frozen
        ORDER BY due_at, id LIMIT 10000) AS late)
RETURNING id
"""


def shorten_impossible_leases(db: Database, keys: tuple[Keys, ...]) -> list[int]:
    """Let leases that end in the far future end in an hour, and return whose they were."""
    return [row.id for row in db.execute(_SHORTEN, {"longest": LONGEST_LEASE, **key_arrays(keys)})]


@functools.lru_cache(maxsize=16)
def key_arrays(keys: tuple[Keys, ...]) -> Mapping[str, str]:
    """Return app ids and secret hashes as two parallel PostgreSQL arrays, `key_apps` and `key_hashes`.

    As text, and once for a process: to adapt the lists anew is a tenth of what a claim costs here.
    """
    pairs = [(key.app_id, secret_hash) for key in keys for secret_hash in key.secret_hashes]
    return {
        "key_apps": "{" + ",".join(str(app_id) for app_id, _ in pairs) + "}",
        "key_hashes": "{" + ",".join(f'"\\\\x{secret_hash.hex()}"' for _, secret_hash in pairs) + "}",
    }


# In the order in which a person would want to hear it.
_WHY_NOT = f"""
SELECT CASE
    WHEN g.one_row IS NULL THEN 'no_control_row'
    WHEN g.frozen OR c.frozen THEN 'frozen'
    WHEN NOT ({SAME_DATABASE}) THEN 'database_changed'
    WHEN c.status = 'disconnected' THEN 'disconnected'
    WHEN c.next_refresh_at IS NULL THEN c.status
    WHEN NOT c.app_id = ANY (%(key_apps)s::int[]) THEN 'no_keys'
    WHEN c.lease_id IS NOT NULL AND c.leased_until > now() AND NOT c.in_doubt THEN 'in_progress'
    WHEN %(max_age)s::interval IS NULL AND c.next_refresh_at > now() THEN 'not_due'
    WHEN c.last_outcome = 'refreshed'
        AND (c.attempt_began_at > now() - %(max_age)s::interval
             OR c.access_expires_at > now() + %(min_ttl)s::interval) THEN 'fresh'
    WHEN a.throttled_until > now() THEN 'throttled'
    WHEN c.not_before > now() OR c.lease_id IS NOT NULL THEN COALESCE(c.last_reason, 'in_doubt')
    WHEN NOT {IS_USABLE.format("c.app_id")} THEN 'blocked'
    ELSE 'in_progress' END AS reason
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id LEFT JOIN qbo.control g ON true
WHERE c.id = %(id)s
"""  # noqa: S608  # composed of constants


def why_not(db: Database, connection_id: int, *, freshness: Freshness, keys: tuple[Keys, ...], lasts: timedelta) -> str:
    """Return in a word why a claim came to nothing, as it looks a moment later."""
    row = db.execute(
        _WHY_NOT,
        {
            "id": connection_id,
            "max_age": freshness.max_age,
            "min_ttl": freshness.min_ttl,
            "lasts": lasts,
            **key_arrays(keys),
        },
    ).one_or_none()
    return "unknown_connection" if row is None else str(row.reason)
