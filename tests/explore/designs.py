"""Four designs that one would build instead, each of them wrong: what finds nothing against these finds nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Hold, Outcome, Status
from tests.explore import saving, worker
from tests.explore.store import MemoryStore
from tests.explore.world import Shelf, World
from worker.attempt import Received, Saved, Source
from worker.policy import Pace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from tests.explore.tables import Kept
    from worker.attempt import Candidate, Claim, Freshness, Record, SealedGrant, Trigger
    from worker.policy import Decision
    from worker.refresh import Refresher

PACE = Pace()


class NoEscrow:
    """Keeps nothing, and says that nothing is there."""

    def connect(self) -> None:
        """Do nothing."""

    def put(self, received: Received) -> bool:
        """Keep nothing."""
        del received
        return False

    def settle(self, received: Received) -> None:
        """Do nothing."""

    def find(
        self,
        connection_id: int,
        *,
        grant_number: int,
        base_version: int,
        is_far: bool = False,  # noqa: ARG002  # the port's
    ) -> Sequence[Received]:
        """Find nothing."""
        del connection_id, grant_number, base_version
        return ()


class RedisLock(MemoryStore):
    """(a) A lock in Redis that expires and that anybody lets go; a blind UPDATE; a verdict on the first refusal."""

    def claim(self, connection_id: int, *, lease_id: UUID, trigger: Trigger, freshness: Freshness) -> Claim | None:
        """Take the lock and read the row."""
        key, world = (connection_id, 0, 0), self.world
        lock, row = world.shelves.get(key), world.tables.rows[connection_id]
        if lock is not None and lock.until > world.seconds:
            return None
        if self.refusal(row, freshness, lease_id) is not None:
            return None
        world.shelves = {**world.shelves, key: Shelf((), world.seconds + self.pace.lease.total_seconds())}
        return self._claim(row, row, lease_id, trigger, world.boottime(), probing=False)

    def _let_go(self, claim: Claim) -> None:
        key = (claim.connection_id, 0, 0)
        self.world.shelves = {name: shelf for name, shelf in self.world.shelves.items() if name != key}

    def candidates(self, claim: Claim) -> Sequence[Candidate]:
        """There are none."""
        del claim
        return ()

    def add_candidate(self, received: Received, source: Source) -> None:
        """Drop it."""

    def save(self, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
        """Overwrite whatever is there."""
        del record
        row = self.world.tables.rows[claim.connection_id]
        self.world.commit_row(saving.with_tokens(row, claim, grant, decision, self.world.now))
        self._let_go(claim)
        return Saved.SAVED

    def conclude(self, claim: Claim, decision: Decision, record: Record) -> Decision | None:
        """Give the connection up when it was refused; else leave it as it is."""
        del record
        row, refused = self.world.tables.rows[claim.connection_id], decision.outcome is Outcome.SUSPECT
        if refused and not self._may_give_up(claim):
            refused = False
        if refused:
            decision = replace(
                decision,
                outcome=Outcome.NEEDS_REAUTH,
                status=Status.NEEDS_REAUTH,
                next_refresh_in=None,
                hold=Hold.REAUTH,
                events=(Event.NEEDS_REAUTH,),
            )
            self.world.commit_row(replace(row, status=Status.NEEDS_REAUTH, next_refresh_at=None))
        self._let_go(claim)
        return decision

    def _may_give_up(self, claim: Claim) -> bool:
        del claim
        return True


class RedisLockAndSecondLook(RedisLock):
    """(b) The same with a second look before the verdict. Its save is repeated, as all are here."""

    def _may_give_up(self, claim: Claim) -> bool:
        row = self.world.tables.rows[claim.connection_id]
        return row.refresh_token_fingerprint == claim.fingerprint


class LoserDropped(MemoryStore):
    """(c) Lease and comparison, but a token that loses the comparison is dropped."""

    def add_candidate(self, received: Received, source: Source) -> None:
        """Drop it."""


class SameBaseOnly(MemoryStore):
    """(d) A save compares the version alone, and a candidate is looked at only while the row has its own."""

    def save(self, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
        """Lose the comparison to any other version, whatever the row holds."""
        if self.world.tables.rows[claim.connection_id].token_version != claim.token_version:
            grant = replace(grant, presented=(grant.presented[0], b""))
        return super().save(claim, grant, decision, record)

    def is_open(self, kept: Kept, connection_id: int) -> bool:
        """Whether a candidate may be adopted."""
        row = self.world.tables.rows[connection_id]
        return super().is_open(kept, connection_id) and kept.base_version == row.token_version


def _made(world: World, store: type[MemoryStore], *, escrow: bool) -> Refresher:
    by = worker.refresher(world, store=store(world, pace=PACE, secret_hashes=[worker.SECRET.secret_hash]))
    return by if escrow else replace(by, escrow=NoEscrow())


def redis_lock(world: World) -> Refresher:
    """Return design (a)."""
    return _made(world, RedisLock, escrow=False)


def redis_lock_and_second_look(world: World) -> Refresher:
    """Return design (b)."""
    return _made(world, RedisLockAndSecondLook, escrow=False)


def loser_dropped(world: World) -> Refresher:
    """Return design (c)."""
    return _made(world, LoserDropped, escrow=False)


def same_base_only(world: World) -> Refresher:
    """Return design (d)."""
    return _made(world, SameBaseOnly, escrow=True)


WRONG = {
    "redis-lock": redis_lock,
    "redis-lock-and-second-look": redis_lock_and_second_look,
    "loser-dropped": loser_dropped,
    "same-base-only": same_base_only,
}
