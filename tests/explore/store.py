"""The store in memory: claims, candidates and blocks. What an attempt comes to is in `saving`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Outcome
from tests.explore import saving
from tests.explore.provider import CLIENT_ID
from tests.explore.tables import APP_ID, Block, Kept, Row, Written
from worker.attempt import Candidate, Claim, Freshness, Received, Record, Saved, SealedGrant, Source, Trigger
from worker.policy import REFUSALS_THAT_BLOCK, Pace, Standing
from worker.policy.expiry import Clocks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from qbo_refresh.sealing import Unsealable
    from tests.explore.world import World
    from worker.attempt import OfApp
    from worker.policy import Decision

YOUNG_EPOCH = timedelta(days=30)


class MemoryStore:
    """Implements `worker.attempt.Store` on a world, as `worker.store` does on PostgreSQL."""

    def __init__(self, world: World, *, pace: Pace, secret_hashes: Sequence[bytes]) -> None:
        self.world = world
        self.pace = pace
        self._hashes = tuple(secret_hashes)

    def claim(self, connection_id: int, *, lease_id: UUID, trigger: Trigger, freshness: Freshness) -> Claim | None:
        """Take the lease; see `worker.store.claims`."""
        opened_at = self.world.boottime()
        held = self.world.tables.rows.get(connection_id)
        if held is None or self.refusal(held, freshness, lease_id) is not None:
            return None
        probing = self._take_probes()
        now, tables = self.world.now, self.world.tables
        is_dead = held.lease_id is not None and held.lease_id != lease_id
        row = replace(
            held,
            lease_id=lease_id,
            leased_until=now + self.pace.lease,
            in_doubt=held.in_doubt or is_dead,
            next_refresh_at=min(held.next_refresh_at or now, now),
            attempt_began_at=now,
        )
        ledger = tables.ledger
        if is_dead and held.lease_id is not None and held.lease_id not in ledger:
            ledger = {**ledger, held.lease_id: Written(held.id, Outcome.ABANDONED)}
        self.world.commit_row(row, ledger=ledger)
        return self._claim(held, row, lease_id, trigger, opened_at, probing=probing)

    def _claim(
        self, held: Row, row: Row, lease_id: UUID, trigger: Trigger, opened_at: float, *, probing: bool
    ) -> Claim:
        now, since = self.world.now, self.world.tables.control.epoch_since
        began = held.attempt_began_at
        return Claim(
            lease_id=lease_id,
            trigger=trigger,
            claimed_at=now,
            opened_at=opened_at,
            app_id=APP_ID,
            environment="sandbox",
            client_id=CLIENT_ID,
            grant_number=row.grant_number,
            token_version=row.token_version,
            refresh_token=row.refresh_token,
            fingerprint=row.refresh_token_fingerprint,
            standing=Standing(
                connection_id=row.id,
                status=row.status,
                failures=row.failures,
                in_doubt=row.in_doubt,
                is_taken_over=held.lease_id is not None,
                suspect_since=row.suspect_since,
                needs_reauth_since=row.needs_reauth_since,
                reason=row.last_reason,
                clocks=Clocks(row.refresh_expires_at, row.hard_expires_at, row.token_obtained_at, row.expiry_told_days),
            ),
            blocked=self._blocked(),
            probing=probing,
            has_candidates=any(
                kept.connection_id == row.id and kept.settled_at is None for kept in self.world.tables.candidates
            ),
            is_new_epoch=since is not None
            and since > now - YOUNG_EPOCH
            and (
                began is None
                or began < since
                or held.lease_id == lease_id
                or held.last_reason == "escrow_silent"
                or (held.lease_id is not None and not self.world.tables.has_concluded_since(row.id, since))
            ),
            is_foreign=row.second_writer_at is None
            and row.known_fingerprint is not None
            and row.known_fingerprint != row.refresh_token_fingerprint,
        )

    def refusal(self, row: Row, freshness: Freshness, lease_id: UUID | None = None) -> str | None:  # noqa: PLR0911  # a table
        """Return why a row may not be claimed now; None if it may."""
        now, control, app = self.world.now, self.world.tables.control, self.world.tables.app
        repeated = lease_id is not None and row.lease_id == lease_id
        leased = row.lease_id is not None and _is_ahead(row.leased_until, now) and not repeated
        quiet = control.epoch_since is not None and control.epoch_since > now - self.pace.lease
        if control.frozen or row.frozen:
            return "frozen"
        if control.timeline != self.world.timeline or quiet:
            return "database_changed"
        if row.next_refresh_at is None:
            return str(row.status)
        if leased and not row.in_doubt:
            return "in_progress"
        if freshness.max_age is None and _is_ahead(row.next_refresh_at, now):
            return "not_due"
        if self._is_fresh(row, freshness) and not repeated:
            return "fresh"
        if _is_ahead(app.throttled_until, now):
            return "throttled"
        if leased or _is_ahead(row.not_before, now):
            return row.last_reason or "in_doubt"
        if not (set(self._hashes) - self._blocked() or self._open_probes()):
            return "blocked"
        return None

    def _is_fresh(self, row: Row, freshness: Freshness) -> bool:
        if freshness.max_age is None:
            return False
        now, ttl = self.world.now, freshness.min_ttl
        young = row.attempt_began_at is not None and row.attempt_began_at > now - freshness.max_age
        lives = ttl is not None and row.access_expires_at is not None and row.access_expires_at > now + ttl
        return young or lives

    def why_not(self, connection_id: int, *, freshness: Freshness) -> str:
        """Say in a word why a claim came to None."""
        row = self.world.tables.rows.get(connection_id)
        if row is None:
            return "unknown_connection"
        return self.refusal(row, freshness) or "in_progress"

    def candidates(self, claim: Claim) -> Sequence[Candidate]:
        """Return what no success has settled, the one received last first."""
        mine = [kept for kept in self.world.tables.candidates if self.is_open(kept, claim.connection_id)]
        mine.sort(key=lambda kept: (kept.received_at, kept.id), reverse=True)
        return [Candidate(kept.id, kept.base_version, kept.refresh_token, kept.fingerprint) for kept in mine]

    def is_open(self, kept: Kept, connection_id: int) -> bool:
        """Whether a candidate is one of the row's grant and is not settled."""
        row = self.world.tables.rows[connection_id]
        return (kept.connection_id, kept.grant_number, kept.settled_at) == (connection_id, row.grant_number, None)

    def add_candidate(self, received: Received, source: Source) -> None:
        """Keep a token that may be live, and make the row due now."""
        tables, now = self.world.tables, self.world.now
        row = tables.rows.get(received.connection_id)
        if row is None:
            return
        candidates = saving.with_candidate(tables.candidates, row, received, source, now)
        if candidates is tables.candidates:
            return
        due = now if row.next_refresh_at is None else min(row.next_refresh_at, now)
        self.world.commit_row(replace(row, next_refresh_at=due), candidates=candidates)

    def refuse(self, candidate_id: int) -> bool:
        """Note that Intuit has refused a candidate; True if what comes after it may be presented too."""
        tables = self.world.tables
        (old,) = (kept for kept in tables.candidates if kept.id == candidate_id)
        row = tables.rows[old.connection_id]
        new = saving.refused(old, row, self.world.now, pace=self.pace)
        self.world.commit(replace(tables, candidates=tuple(new if kept is old else kept for kept in tables.candidates)))
        return new.refused_again_at is not None or not saving.succeeds(new, row)

    def report_unreadable(self, of: OfApp, error: Unsealable, *, connection_id: int | None) -> None:
        """Tell operators once: nothing here is sealed with a key that goes away."""

    def report_second_writer(self, claim: Claim) -> None:
        """Tell operators once."""
        row = self.world.tables.rows[claim.connection_id]
        if row.second_writer_at is None:
            told = replace(row, second_writer_at=self.world.now, event_sequence=row.event_sequence + 1)
            self.world.commit_row(told, events=(*self.world.tables.events, (row.id, Event.SECOND_WRITER)))

    def save(self, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
        """Put a new grant's tokens into the row if version and token are still the claimed ones."""
        return saving.save(self.world, claim, grant, decision, record)

    def save_bare(self, claim: Claim, grant: SealedGrant) -> Saved:
        """Save the tokens alone."""
        return saving.save_bare(self.world, claim, grant)

    def conclude(self, claim: Claim, decision: Decision, record: Record) -> Decision | None:
        """Write what a failure changes."""
        del record
        unsettled = [kept for kept in self.world.tables.candidates if self.is_open(kept, claim.connection_id)]
        return saving.conclude(self.world, claim, decision, pace=self.pace, unsettled=unsettled)

    def block(self, claim: Claim, *, secret_hash: bytes, reason: str, at_once: bool) -> None:
        """Count a refusal of our keys; with enough of them the secret is blocked."""
        tables, now = self.world.tables, self.world.now
        old = tables.app.blocks.get(secret_hash)
        if old is not None and old.blocked_at is not None:
            return
        ids = frozenset({claim.connection_id}) | (old.connection_ids if old else frozenset())
        blocked = at_once or len(ids) >= REFUSALS_THAT_BLOCK
        new = Block(reason, ids, now if blocked else None, now + self.pace.probe_every)
        events = (*tables.events, (None, Event.APP_BLOCKED)) if blocked else tables.events
        app = replace(tables.app, blocks={**tables.app.blocks, secret_hash: new})
        self.world.commit(replace(tables, app=app, events=events))

    def _blocked(self) -> frozenset[bytes]:
        return frozenset(name for name, block in self.world.tables.app.blocks.items() if block.blocked_at)

    def _open_probes(self) -> list[bytes]:
        blocks, now = self.world.tables.app.blocks, self.world.now
        return [name for name in self._hashes if name in self._blocked() and blocks[name].probe_at <= now]

    def _take_probes(self) -> bool:
        taken = self._open_probes()
        tables = self.world.tables
        if taken:
            later = self.world.now + self.pace.probe_every
            changed = {name: replace(tables.app.blocks[name], probe_at=later) for name in taken}
            app = replace(tables.app, blocks={**tables.app.blocks, **changed})
            self.world.tables = replace(tables, app=app)  # committed with the claim
        return bool(taken)


def _is_ahead(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment > now
