"""The store of the refresh use case: each method one transaction, repeated where repeating it changes nothing more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from worker import clock, log
from worker.database import DatabaseUnavailable
from worker.store import apps, candidates, claims, outcomes, unreadable, writers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from qbo_refresh.sealing import Unsealable
    from worker.attempt import (
        Candidate,
        Claim,
        Freshness,
        Keys,
        OfApp,
        Received,
        Record,
        Saved,
        SealedGrant,
        Source,
        Trigger,
    )
    from worker.database import Database
    from worker.policy import Decision, Pace


class PostgresStore:
    """Implements `worker.attempt.Store`."""

    def __init__(
        self, db: Database, *, keys: tuple[Keys, ...], pace: Pace, worker: str, give_up: Callable[[], bool]
    ) -> None:
        """Take what is the same for all attempts of this process.

        Args:
            db: The way to PostgreSQL.
            keys: The apps whose secrets are here; other rows are left alone.
            pace: The configured durations.
            worker: This process's name in the ledger.
            give_up: Asked between repetitions of a save; see `Database.until_acknowledged`.
        """
        self._db, self._keys, self._pace, self._worker, self._give_up = db, keys, pace, worker, give_up
        # Waiting longer for a claim would only spend the lease that it takes.
        self._patience = pace.lease - pace.deadline - 2 * pace.slack

    def claim(self, connection_id: int, *, lease_id: UUID, trigger: Trigger, freshness: Freshness) -> Claim | None:
        """See `worker.store.claims.claim`. Waits a little for a database that is away.

        Raises:
            DatabaseUnavailable: It stayed away.
        """
        opened_at = clock.boottime()
        return self._db.patiently(
            lambda: claims.claim(
                self._db,
                connection_id,
                lease_id=lease_id,
                lasts=self._pace.lease,
                opened_at=opened_at,
                trigger=trigger,
                worker=self._worker,
                freshness=freshness,
                keys=self._keys,
                probe_every=self._pace.probe_every,
            ),
            patience=self._patience,
        )

    def why_not(self, connection_id: int, *, freshness: Freshness) -> str:
        """See `worker.store.claims.why_not`."""
        return self._db.patiently(
            lambda: claims.why_not(
                self._db, connection_id, freshness=freshness, keys=self._keys, lasts=self._pace.lease
            ),
            patience=timedelta(seconds=5),
        )

    def candidates(self, claim: Claim) -> Sequence[Candidate]:
        """See `worker.store.candidates.unsettled`."""
        return self._db.patiently(lambda: candidates.unsettled(self._db, claim), patience=self._pace.slack)

    def add_candidate(self, received: Received, source: Source) -> None:
        """See `worker.store.candidates.keep`. Repeated until acknowledged."""
        self._db.until_acknowledged(lambda: candidates.keep(self._db, received, source), give_up=self._give_up)

    def refuse(self, candidate_id: int) -> bool:
        """See `worker.store.candidates.refuse`."""
        pace = self._pace
        return self._db.patiently(
            lambda: candidates.refuse(self._db, candidate_id, confirm_after=pace.confirm_after), patience=pace.slack
        )

    def block(self, claim: Claim, *, secret_hash: bytes, reason: str, at_once: bool) -> None:
        """See `worker.store.apps.block`."""
        self._db.patiently(
            lambda: apps.block(
                self._db,
                claim,
                connection_id=claim.connection_id,
                secret_hash=secret_hash,
                reason=reason,
                at_once=at_once,
                probe_every=self._pace.probe_every,
            ),
            patience=self._pace.slack,
        )

    def report_unreadable(self, of: OfApp, error: Unsealable, *, connection_id: int | None) -> None:
        """See `worker.store.unreadable.meet`. What cannot be told now is told when it is met again."""
        try:
            self._db.patiently(
                lambda: unreadable.meet(self._db, of, error, connection_id=connection_id), patience=self._pace.slack
            )
        except DatabaseUnavailable:
            log.warning("row.unreadable_untold", app_id=of.app_id, key_missing=error.key_missing)

    def report_second_writer(self, claim: Claim) -> None:
        """See `worker.store.writers.report`."""
        self._db.patiently(lambda: writers.report(self._db, claim.connection_id, seen="row"), patience=self._pace.slack)

    def save(self, claim: Claim, grant: SealedGrant, decision: Decision, record: Record) -> Saved:
        """See `worker.store.outcomes.save`. Repeated until acknowledged."""
        return self._db.until_acknowledged(
            lambda: outcomes.save(self._db, claim, grant, decision, record), give_up=self._give_up
        )

    def save_bare(self, claim: Claim, grant: SealedGrant) -> Saved:
        """See `worker.store.outcomes.save_bare`. Repeated until acknowledged."""
        return self._db.until_acknowledged(lambda: outcomes.save_bare(self._db, claim, grant), give_up=self._give_up)

    def conclude(self, claim: Claim, decision: Decision, record: Record) -> Decision | None:
        """See `worker.store.outcomes.conclude`.

        Raises:
            DatabaseUnavailable: It is lost, and harmless: the lease runs out and the next attempt is in doubt.
        """
        return self._db.patiently(
            lambda: outcomes.conclude(self._db, claim, decision, record, pace=self._pace), patience=self._pace.slack
        )
