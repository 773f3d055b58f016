"""The Intuit apps that the rows belong to, and which client secrets of theirs Intuit refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbo_refresh.status import Event
from worker.policy import REFUSALS_THAT_BLOCK
from worker.store import events

if TYPE_CHECKING:
    from datetime import timedelta

    from worker.attempt import OfApp
    from worker.database import Database


# No answer makes an app pause for so long (`policy.LONGEST_THROTTLE`): the database's clock was stepped back since.
IS_PAUSED_FOR_EVER = "{0}.throttled_until > now() + interval '1 hour'"
# The others; NULL, and not false, for an app that never was.
IS_THROTTLED = f"({{0}}.throttled_until > now() AND NOT {IS_PAUSED_FOR_EVER})"


def ensure(db: Database, *, environment: str, client_id: str) -> int:
    """Return the id of an app, made if it is new."""
    values = {"environment": environment, "client_id": client_id}
    found = "SELECT id FROM qbo.apps WHERE environment = %(environment)s AND client_id = %(client_id)s"
    row = db.execute(found, values).one_or_none()
    if row is None:
        db.execute(
            "INSERT INTO qbo.apps (environment, client_id) VALUES (%(environment)s, %(client_id)s)"
            " ON CONFLICT DO NOTHING",
            values,
        )
        row = db.execute(found, values).one()
    return int(row.id)


_COUNT = """
INSERT INTO qbo.app_blocks AS b (app_id, secret_hash, reason, connection_ids, blocked_at, probe_at)
VALUES (%(app)s, %(hash)s, %(reason)s, %(ids)s::bigint[], CASE WHEN %(at_once)s THEN now() END,
        now() + %(probe_every)s::interval)
ON CONFLICT (app_id, secret_hash) DO UPDATE SET
    reason = CASE WHEN b.blocked_at IS NULL THEN EXCLUDED.reason ELSE b.reason END,
    connection_ids = CASE WHEN b.connection_ids @> %(ids)s::bigint[] OR cardinality(b.connection_ids) >= %(enough)s
                          THEN b.connection_ids ELSE b.connection_ids || %(ids)s::bigint[] END,
    blocked_at = CASE WHEN b.blocked_at IS NOT NULL THEN b.blocked_at
                      WHEN %(at_once)s OR cardinality(b.connection_ids)
                           + (NOT b.connection_ids @> %(ids)s::bigint[])::int >= %(enough)s THEN now() END,
    probe_at = CASE WHEN b.blocked_at IS NULL THEN EXCLUDED.probe_at ELSE b.probe_at END
RETURNING blocked_at IS NOT NULL AND blocked_at = now() AS newly
"""


def block(
    db: Database,
    of: OfApp,
    *,
    connection_id: int | None,
    secret_hash: bytes,
    reason: str,
    at_once: bool,
    probe_every: timedelta,
) -> None:
    """Count a refusal of our keys; operators are told if that has just blocked them. One transaction.

    Args:
        db: The database.
        of: The app.
        connection_id: Whose attempt was refused; None for a consent that has no connection yet.
        secret_hash: Names the secret that was used.
        reason: Intuit's code.
        at_once: Block it; else only once REFUSALS_THAT_BLOCK different connections were refused.
        probe_every: How long it rests between two tries.
    """
    with db.transaction():
        row = db.execute(
            _COUNT,
            {
                "app": of.app_id,
                "hash": secret_hash,
                "reason": reason,
                "ids": [] if connection_id is None else [connection_id],
                "at_once": at_once,
                "enough": REFUSALS_THAT_BLOCK,
                "probe_every": probe_every,
            },
        ).one()
        if row.newly:
            events.emit_for_app(
                db, Event.APP_BLOCKED, environment=of.environment, client_id=of.client_id, reason=reason
            )


_UNBLOCK = """
DELETE FROM qbo.app_blocks
WHERE app_id = %(app)s AND (%(hash)s::bytea IS NULL OR secret_hash = %(hash)s) RETURNING blocked_at IS NOT NULL AS was
"""
# What was published meanwhile found the block and went: it is published again by the next sweep.
_REQUEUE = "UPDATE qbo.connections SET queued_until = NULL WHERE app_id = %(app)s AND queued_until > now()"
# Verdicts of the time before the mend deserve another question.
_ASK_AGAIN = """
UPDATE qbo.connections SET next_refresh_at = now()
WHERE app_id = %(app)s AND suspect_since IS NOT NULL AND status = 'needs_reauth'
  AND needs_reauth_since > now() - interval '30 days' AND (next_refresh_at IS NULL OR next_refresh_at > now())
"""


def unblock(db: Database, of: OfApp, secret_hash: bytes) -> None:
    """Lift what stands against a secret that has just worked; if it was blocked, operators are told, once."""
    lift_blocks(db, of.app_id, environment=of.environment, client_id=of.client_id, secret_hash=secret_hash)


def throttle(db: Database, app_id: int, *, pause: timedelta) -> None:
    """Let the whole app pause; a longer pause that stands already stays."""
    db.execute(
        "UPDATE qbo.apps SET throttled_until = GREATEST(throttled_until, now() + %(pause)s::interval)"
        " WHERE id = %(app)s",
        {"app": app_id, "pause": pause},
    )


def lift_blocks(
    db: Database, app_id: int, *, environment: str, client_id: str, secret_hash: bytes | None = None
) -> int:
    """Lift the block of one secret of an app, or of all (None), and return how many stood. One transaction of a caller.

    Refusals that were counted and did not block yet are forgotten, too.
    """
    lifted = sum(bool(row.was) for row in db.execute(_UNBLOCK, {"app": app_id, "hash": secret_hash}).all())
    if lifted:
        db.execute(_REQUEUE, {"app": app_id})
        db.execute(_ASK_AGAIN, {"app": app_id})
        events.emit_for_app(db, Event.APP_UNBLOCKED, environment=environment, client_id=client_id)
    return lifted
