"""Everything that is known of one connection, for `explain`. Neither tokens nor realms nor their hashes are read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from worker.database import Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """The connection itself, its app and the control row.

    Attributes:
        at: The database's time.
        due_at: When it is refreshed next; None for never.
        is_leased: Somebody holds the lease now.
        is_foreign: The row's token was written by no attempt of ours.
        probe_at: When a refused client secret of its app is tried next; None if none is refused.
    """

    at: datetime
    id: int
    environment: str
    client_id: str
    label: str | None
    external_ids: list[str]
    status: str
    grant_number: int
    token_version: int
    has_token: bool
    token_obtained_at: datetime | None
    access_expires_at: datetime | None
    refresh_expires_at: datetime | None
    hard_expires_at: datetime | None
    hard_expires_inferred: bool
    expiry_told_days: int | None
    second_writer_at: datetime | None
    is_foreign: bool
    is_leased: bool
    leased_until: datetime | None
    in_doubt: bool
    attempt_began_at: datetime | None
    attempt_worker: str | None
    next_refresh_at: datetime | None
    not_before: datetime | None
    due_at: datetime | None
    queued_until: datetime | None
    frozen: bool
    taken_over: bool
    failures: int
    suspect_since: datetime | None
    needs_reauth_since: datetime | None
    last_refreshed_at: datetime | None
    last_secret: str | None
    last_outcome: str | None
    last_reason: str | None
    created_at: datetime
    throttled_until: datetime | None
    everything_frozen: bool
    frozen_reason: str | None
    probe_at: datetime | None


_ROW = """
SELECT now() AS at, c.id, a.environment, a.client_id, c.label,
       ARRAY(SELECT x.external_id FROM qbo.external_ids x WHERE x.connection_id = c.id ORDER BY 1) AS external_ids,
       c.status, c.grant_number, c.token_version, c.refresh_token IS NOT NULL AS has_token,
       c.token_obtained_at, c.access_expires_at, c.refresh_expires_at,
       c.hard_expires_at, c.hard_expires_inferred, c.expiry_told_days, c.second_writer_at,
       COALESCE(c.known_fingerprint <> c.refresh_token_fingerprint, false) AS is_foreign,
       c.lease_id IS NOT NULL AND c.leased_until > now() AS is_leased, c.leased_until, c.in_doubt,
       c.attempt_began_at, c.attempt_worker, c.next_refresh_at, c.not_before,
       c.due_at, c.queued_until, c.frozen, c.taken_over, c.failures, c.suspect_since,
       c.needs_reauth_since, c.last_refreshed_at,
       (SELECT r.secret FROM qbo.refresh_attempts r WHERE r.connection_id = c.id AND r.outcome = 'refreshed'
        ORDER BY r.began_at DESC LIMIT 1) AS last_secret, c.last_outcome, c.last_reason, c.created_at,
       a.throttled_until,
       COALESCE(g.frozen, false) AS everything_frozen, g.frozen_reason,
       (SELECT min(b.probe_at) FROM qbo.app_blocks b WHERE b.app_id = a.id AND b.blocked_at IS NOT NULL) AS probe_at
FROM qbo.connections c JOIN qbo.apps a ON a.id = c.app_id LEFT JOIN qbo.control g ON true
WHERE c.id = %(id)s
"""  # composed of constants


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as the ledger has it.

    Attributes:
        rotated: Whether the refresh token's value changed; None unless refreshed.
        withheld: What stood against the verdict that this would have been.
    """

    began_at: datetime
    trigger: str
    worker: str | None
    outcome: str
    reason: str | None
    duration_ms: int | None
    posts: int | None
    http_status: int | None
    intuit_tid: str | None
    secret: str | None
    rotated: bool | None
    withheld: str | None
    token_version: int | None


# The newest, in the order in which they happened.
_ATTEMPTS = """
SELECT * FROM (
    SELECT began_at, trigger, worker, outcome, reason, duration_ms, posts, http_status, intuit_tid, secret, withheld,
           token_version, attempt_id,
           CASE WHEN outcome = 'refreshed' THEN fingerprint_after IS DISTINCT FROM fingerprint_before END AS rotated
    FROM qbo.refresh_attempts WHERE connection_id = %(id)s
    ORDER BY began_at DESC, attempt_id DESC LIMIT %(limit)s) AS newest
ORDER BY began_at, attempt_id
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may be, or may have been, the live one."""

    source: str
    received_at: datetime
    tried_at: datetime | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Told:
    """An event of the connection; `delivered_at` is None while it waits."""

    type: str
    created_at: datetime
    delivered_at: datetime | None
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hold:
    """One reason why its syncs are paused."""

    reason: str
    since: datetime
    note: str | None


@dataclass(frozen=True, slots=True)
class Consent:
    """A consent to its company that was called back and is not exchanged yet."""

    used_at: datetime
    presented_at: datetime | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """A token of it that Intuit has not said to be gone."""

    created_at: datetime
    failures: int


@dataclass(frozen=True, slots=True)
class Story:
    """What `explain` tells of. `row` is None if only the ledger is left of the connection.

    Attributes:
        earlier: How many attempts of the ledger are older than those here.
    """

    connection_id: int
    row: Row | None
    attempts: Sequence[Attempt]
    earlier: int = 0
    candidates: Sequence[Candidate] = ()
    events: Sequence[Told] = ()
    holds: Sequence[Hold] = ()
    consents: Sequence[Consent] = ()
    revocations: Sequence[Revocation] = ()


def story(db: Database, connection_id: int, *, limit: int | None) -> Story | None:
    """Return what is known of a connection; None if nothing is, not even in the ledger.

    Args:
        db: The database.
        connection_id: Our id of it.
        limit: At most so many attempts and events, the newest; None for all.
    """
    values = {"id": connection_id, "limit": limit}
    row = db.execute(_ROW, values).one_or_none()
    attempts = _all(Attempt, db.execute(_ATTEMPTS, values))
    if row is None and not attempts:
        return None
    count = "SELECT count(*) AS n FROM qbo.refresh_attempts WHERE connection_id = %(id)s"
    return Story(
        connection_id,
        _one(Row, row) if row else None,
        attempts,
        db.execute(count, values).one().n - len(attempts),
        _all(
            Candidate,
            db.execute(
                "SELECT source, received_at, tried_at, settled_at FROM qbo.candidates"
                " WHERE connection_id = %(id)s ORDER BY id",
                values,
            ),
        ),
        _all(
            Told,
            db.execute(
                "SELECT * FROM (SELECT id, type, created_at, delivered_at, payload FROM qbo.outbox"
                " WHERE connection_id = %(id)s ORDER BY id DESC LIMIT %(limit)s) AS newest ORDER BY id",
                values,
            ),
        ),
        _all(
            Hold,
            db.execute(
                "SELECT reason, since, note FROM qbo.sync_holds WHERE connection_id = %(id)s ORDER BY since", values
            ),
        ),
        _all(Consent, db.execute(_CONSENTS, values)),
        _all(
            Revocation,
            db.execute(
                "SELECT created_at, failures FROM qbo.revocations WHERE connection_id = %(id)s ORDER BY id", values
            ),
        ),
    )


# A first connection's consent may be to this company, too.
_CONSENTS = """
SELECT z.used_at, z.presented_at, z.reason
FROM qbo.authorizations z LEFT JOIN qbo.connections c ON c.id = %(id)s
WHERE z.used_at IS NOT NULL AND z.finished_at IS NULL
  AND (z.connection_id = %(id)s OR z.app_id = c.app_id AND z.realm_hash = c.realm_hash)
ORDER BY z.id
"""


def _one(kind: type[T], row: Any) -> T:
    given = row._mapping  # noqa: SLF001  # SQLAlchemy's public name for it
    return kind(**{field.name: given[field.name] for field in fields(kind)})  # type: ignore[arg-type]  # dataclasses


def _all(kind: type[T], rows: Any) -> list[T]:
    return [_one(kind, row) for row in rows]
