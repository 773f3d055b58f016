"""What an attempt comes to, in memory: `worker.store.outcomes` and `candidates` without SQL and locks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Hold, Outcome, Status
from tests.explore import verdicts
from tests.explore.tables import Kept, Row, Tables, Written
from worker import policy
from worker.attempt import Received, Saved, Source
from worker.policy import expiry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tests.explore.world import World
    from worker.attempt import Claim, Record, SealedGrant
    from worker.policy import Decision, Pace

RECONSIDERED = timedelta(days=30)


def with_candidate(
    candidates: tuple[Kept, ...], row: Row, received: Received, source: Source, now: datetime
) -> tuple[Kept, ...]:
    """Return the candidates with one more; the same ones if the row holds that token or another grant, or knows it."""
    known = any(
        (kept.connection_id, kept.grant_number, kept.fingerprint) == (row.id, row.grant_number, received.fingerprint)
        for kept in candidates
    )
    if (
        known
        or row.status is Status.DISCONNECTED
        or row.grant_number != received.grant_number
        or row.refresh_token_fingerprint == received.fingerprint
    ):
        return candidates
    new = Kept(
        len(candidates) + 1,
        row.id,
        row.grant_number,
        received.base_version,
        source,
        received.refresh_token,
        received.fingerprint,
        now,
    )
    return (*candidates, new)


def succeeds(kept: Kept, row: Row) -> bool:
    """Whether a candidate has replaced the row's token."""
    return kept.base_version >= row.token_version and kept.source not in {Source.IMPORT, Source.PREVIOUS}


def refused(kept: Kept, row: Row, now: datetime, *, pace: Pace) -> Kept:
    """Return a candidate that was refused: the first time, and of a successor the second, count."""
    if kept.tried_at is None:
        return replace(kept, tried_at=now)
    again = kept.refused_again_at or now
    believed = succeeds(kept, row) and kept.tried_at <= now - pace.confirm_after
    return replace(kept, refused_again_at=again if believed else None)


def settled(candidates: tuple[Kept, ...], ids: Sequence[int], now: datetime) -> tuple[Kept, ...]:
    """Return the candidates with some of them settled by a success."""
    return tuple(
        replace(kept, tried_at=kept.tried_at or now, settled_at=now)
        if kept.id in ids and kept.settled_at is None
        else kept
        for kept in candidates
    )


def save(world: World, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
    """See `worker.store.outcomes.save`."""
    tables = world.tables
    row = tables.rows.get(claim.connection_id)
    if row is None:
        return Saved.GONE
    written = tables.ledger.get(claim.lease_id)
    if written is not None and written.outcome is Outcome.REFRESHED:
        return Saved.BEFORE
    if not _is_next(row, claim, grant):
        _release(world, row, claim)
        return _lost(row, grant)
    new = with_tokens(row, claim, grant, decision, world.now)
    tables = _recovered(tables, row, new, decision)
    tables = replace(
        tables,
        candidates=settled(tables.candidates, grant.candidate_ids, world.now),
        ledger={
            **tables.ledger,
            claim.lease_id: Written(row.id, Outcome.REFRESHED, decision.reason, began_at=claim.claimed_at),
        },
    )
    world.commit(_unblocked(tables, record.secret_hash, world.now))
    return Saved.SAVED


def _is_next(row: Row, claim: Claim, grant: SealedGrant) -> bool:
    is_claimed = (row.token_version, row.refresh_token_fingerprint) == (claim.token_version, claim.fingerprint)
    is_presented = grant.rotated and row.refresh_token_fingerprint == grant.presented[1]
    return is_claimed or (is_presented and row.status is not Status.DISCONNECTED)


def with_tokens(row: Row, claim: Claim, grant: SealedGrant, decision: Decision, now: datetime) -> Row:
    hard = None if grant.hard_lifetime is None else now + grant.hard_lifetime
    same = hard is not None and row.hard_expires_at is not None and abs(hard - row.hard_expires_at) <= expiry.SAME
    kept = row.lease_id is not None and row.lease_id != claim.lease_id
    if grant.rotated:
        row = replace(
            row, previous_refresh_token=grant.presented[0], previous_refresh_token_fingerprint=grant.presented[1]
        )
    assert decision.next_refresh_in is not None
    return replace(
        row,
        refresh_token=grant.received.refresh_token,
        refresh_token_fingerprint=grant.received.fingerprint,
        known_fingerprint=grant.received.fingerprint,
        access_token=grant.access_token,
        token_version=row.token_version + 1,
        token_obtained_at=now,
        access_expires_at=None if grant.access_lifetime is None else now + grant.access_lifetime,
        refresh_expires_at=row.refresh_expires_at if grant.refresh_lifetime is None else now + grant.refresh_lifetime,
        hard_expires_at=row.hard_expires_at if same or hard is None else hard,
        expiry_told_days=decision.expiry_told_days or row.expiry_told_days,
        lease_id=row.lease_id if kept else None,
        leased_until=row.leased_until if kept else None,
        in_doubt=False,
        suspect_since=None,
        needs_reauth_since=None,
        not_before=None,
        failures=0,
        status=Status.ACTIVE,
        next_refresh_at=now + decision.next_refresh_in,
        last_refreshed_at=now,
        last_outcome=Outcome.REFRESHED,
        last_reason=decision.reason,
    )


def _recovered(tables: Tables, before: Row, after: Row, decision: Decision) -> Tables:
    """Return the tables with the row, its holds lifted and what is to be told of that."""
    told = [Event.RECOVERED] if before.status is Status.NEEDS_REAUTH else []
    lifted = {(after.id, Hold.REAUTH), (after.id, Hold.SUSPECT)} & tables.holds
    holds = tables.holds - lifted
    if (after.id, Hold.REAUTH) in lifted and not any(held == after.id for held, _ in holds):
        told.append(Event.SYNC_RESUMED)
    if decision.expiry_told_days is not None:
        told.append(Event.EXPIRING)
    after = replace(after, event_sequence=after.event_sequence + len(told))
    events = (*tables.events, *((after.id, event) for event in told))
    return replace(tables, rows={**tables.rows, after.id: after}, holds=holds, events=events)


def _unblocked(tables: Tables, secret_hash: bytes | None, now: datetime) -> Tables:
    block = tables.app.blocks.get(secret_hash or b"")
    if block is None:
        return tables
    blocks = {name: each for name, each in tables.app.blocks.items() if name != secret_hash}
    tables = replace(tables, app=replace(tables.app, blocks=blocks))
    if block.blocked_at is None:
        return tables
    rows = {
        row.id: replace(row, next_refresh_at=min(row.next_refresh_at or now, now)) if _is_recent(row, now) else row
        for row in tables.rows.values()
    }
    return replace(tables, rows=rows, events=(*tables.events, (None, Event.APP_UNBLOCKED)))


def _is_recent(row: Row, now: datetime) -> bool:
    since = row.needs_reauth_since
    return row.status is Status.NEEDS_REAUTH and since is not None and since > now - RECONSIDERED


def _release(world: World, row: Row, claim: Claim) -> None:
    if row.lease_id == claim.lease_id:
        world.commit_row(replace(row, lease_id=None, leased_until=None))


def _lost(row: Row, grant: SealedGrant) -> Saved:
    if row.status is Status.DISCONNECTED:
        return Saved.DISCONNECTED
    return Saved.BEFORE if row.refresh_token_fingerprint == grant.received.fingerprint else Saved.OVERTAKEN


def save_bare(world: World, claim: Claim, grant: SealedGrant) -> Saved:
    """See `worker.store.outcomes.save_bare`."""
    row = world.tables.rows.get(claim.connection_id)
    if row is None:
        return Saved.GONE
    if not _is_next(row, claim, grant):
        return _lost(row, grant)
    kept = row.lease_id is not None and row.lease_id != claim.lease_id
    world.commit_row(
        replace(
            row,
            refresh_token=grant.received.refresh_token,
            refresh_token_fingerprint=grant.received.fingerprint,
            previous_refresh_token=row.refresh_token,
            previous_refresh_token_fingerprint=row.refresh_token_fingerprint,
            known_fingerprint=grant.received.fingerprint,
            access_token=grant.access_token,
            access_expires_at=world.now,
            refresh_expires_at=None,
            token_version=row.token_version + 1,
            token_obtained_at=world.now,
            lease_id=row.lease_id if kept else None,
            leased_until=row.leased_until if kept else None,
            in_doubt=False,
            suspect_since=None,
            next_refresh_at=world.now,
        )
    )
    return Saved.SAVED


def conclude(
    world: World, claim: Claim, decision: Decision, *, pace: Pace, unsettled: Sequence[Kept]
) -> Decision | None:
    """See `worker.store.outcomes.conclude`."""
    row = world.tables.rows.get(claim.connection_id)
    if row is None:
        return None
    if decision.status is Status.NEEDS_REAUTH:
        decision = policy.judge(decision, claim.standing, verdicts.evidence(world, row, unsettled=unsettled), pace=pace)
    if row.lease_id != claim.lease_id or row.token_version != claim.token_version:
        _release(world, row, claim)
        return None
    tables, now = world.tables, world.now
    if decision.present_previous and row.previous_refresh_token is not None:
        assert row.previous_refresh_token_fingerprint is not None
        previous = Received(
            row.id,
            row.grant_number,
            row.token_version - 1,
            claim.lease_id,
            row.previous_refresh_token,
            row.previous_refresh_token_fingerprint,
        )
        candidates = with_candidate(tables.candidates, row, previous, Source.PREVIOUS, now)
        tables = replace(tables, candidates=candidates)
    told = list(decision.events)
    if decision.hold is Hold.REAUTH and not {h for held, h in tables.holds if held == row.id} - {Hold.SUSPECT}:
        told.append(Event.SYNC_PAUSED)
    new = replace(_after_failure(row, decision, now), event_sequence=row.event_sequence + len(told))
    holds = tables.holds | ({(row.id, decision.hold)} if decision.hold else set())
    if decision.hold is Hold.REAUTH:
        holds -= {(row.id, Hold.SUSPECT)}
    written = Written(row.id, decision.outcome, decision.reason, decision.withheld, claim.claimed_at)
    tables = replace(
        tables,
        rows={**tables.rows, row.id: new},
        holds=holds,
        events=(*tables.events, *((row.id, event) for event in told)),
        ledger={**tables.ledger, claim.lease_id: written},
    )
    if decision.throttle is not None:
        until = max(tables.app.throttled_until or now, now + decision.throttle)
        tables = replace(tables, app=replace(tables.app, throttled_until=until))
    if decision.status is Status.SUSPECT and claim.standing.suspect_since is None:
        tables = verdicts.note_suspect(tables, now)
    world.commit(tables)
    return decision


def _after_failure(row: Row, decision: Decision, now: datetime) -> Row:
    given_up = decision.status is Status.NEEDS_REAUTH
    return replace(
        row,
        status=decision.status,
        failures=decision.failures,
        last_outcome=decision.outcome,
        last_reason=decision.reason,
        next_refresh_at=None if decision.next_refresh_in is None else now + decision.next_refresh_in,
        not_before=None if decision.not_before_in is None else now + decision.not_before_in,
        suspect_since=row.suspect_since or now if decision.status is Status.SUSPECT else row.suspect_since,
        needs_reauth_since=row.needs_reauth_since or now if given_up else None,
        in_doubt=(row.in_doubt or decision.keep_lease) and not given_up,
        lease_id=row.lease_id if decision.keep_lease else None,
        leased_until=row.leased_until if decision.keep_lease else None,
    )
