"""The store of the exchange and of the ends: each method one transaction, repeated where that changes nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from worker import clock
from worker.consent import CODE_LIVES
from worker.store import apps, authorizations, endings, installing, revocations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from uuid import UUID

    from qbo_refresh.status import Authorized
    from worker.attempt import Keys, Record
    from worker.consent import Callback, Consent, Exchanged, Installed, NewGrant
    from worker.database import Database
    from worker.policy import Pace
    from worker.store.endings import Deleted
    from worker.store.revocations import Revocation

T = TypeVar("T")

_AT_ONCE = 20


class PostgresGrants:
    """Implements `worker.consent.ConsentStore`, and what `worker.ending` needs."""

    def __init__(
        self, db: Database, *, keys: tuple[Keys, ...], pace: Pace, worker: str, give_up: Callable[[], bool]
    ) -> None:
        """Take what is the same for all requests of this process; see `worker.store.postgres`."""
        self._db, self._keys, self._pace, self._worker, self._give_up = db, keys, pace, worker, give_up

    def callback(self, authorization_id: int) -> Callback | None:
        """See `worker.store.authorizations.callback`."""
        return self._soon(lambda: authorizations.callback(self._db, authorization_id))

    def standing(self, authorization_id: int) -> Exchanged:
        """See `worker.store.authorizations.standing`."""
        return self._soon(lambda: authorizations.standing(self._db, authorization_id))

    def unfinished(self) -> Sequence[int]:
        """See `worker.store.authorizations.unfinished`."""
        return self._soon(lambda: authorizations.unfinished(self._db, self._keys, limit=_AT_ONCE))

    def end_expired(self) -> None:
        """See `worker.store.authorizations.end_expired`."""
        self._soon(lambda: authorizations.end_expired(self._db, lives=CODE_LIVES))

    def claim(self, callback: Callback, *, lease_id: UUID, realm_hash: bytes) -> Consent | None:
        """See `worker.store.authorizations.claim`."""
        opened_at = clock.boottime()
        return self._soon(
            lambda: authorizations.claim(
                self._db,
                callback,
                lease_id=lease_id,
                lasts=self._pace.lease,
                opened_at=opened_at,
                realm_hash=realm_hash,
                worker=self._worker,
            )
        )

    def release(
        self, consent: Consent, *, reason: str, pause: timedelta, presented: bool, throttles: bool = False
    ) -> None:
        """See `worker.store.authorizations.release`."""
        self._soon(
            lambda: authorizations.release(
                self._db, consent, reason=reason, pause=pause, presented=presented, throttles=throttles
            )
        )

    def block(self, consent: Consent, *, secret_hash: bytes, reason: str) -> None:
        """See `worker.store.apps.block`."""
        self._soon(
            lambda: apps.block(
                self._db,
                consent.callback,
                connection_id=None,
                secret_hash=secret_hash,
                reason=reason,
                at_once=True,
                probe_every=self._pace.probe_every,
            )
        )

    def finish(self, consent: Consent, outcome: Authorized, reason: str) -> None:
        """See `worker.store.authorizations.finish`."""
        self._soon(lambda: authorizations.finish(self._db, consent, outcome, reason))

    def reject(self, authorization_id: int, reason: str) -> None:
        """See `worker.store.authorizations.reject`."""
        self._soon(lambda: authorizations.reject(self._db, authorization_id, reason))

    def install(self, consent: Consent, seal: Callable[[int, int], NewGrant], record: Record) -> Installed:
        """See `worker.store.installing.install`. Repeated until acknowledged."""
        return self._db.until_acknowledged(
            lambda: installing.install(self._db, consent, seal, record), give_up=self._give_up
        )

    def disconnect(self, connection_id: int, *, revoke: bool = True, to_delete: bool = False) -> str | None:
        """See `worker.store.endings.disconnect`."""
        return self._soon(lambda: endings.disconnect(self._db, connection_id, revoke=revoke, to_delete=to_delete))

    def leave(self, connection_id: int, external_id: str) -> str | None:
        """See `worker.store.endings.leave`."""
        return self._soon(lambda: endings.leave(self._db, connection_id, external_id))

    def consents_of(self, connection_id: int) -> Sequence[int]:
        """See `worker.store.authorizations.of_company`."""
        return self._soon(lambda: authorizations.of_company(self._db, connection_id))

    def delete(self, connection_id: int) -> Deleted:
        """See `worker.store.endings.delete`."""
        return self._soon(lambda: endings.delete(self._db, connection_id))

    def claim_revocation(self, connection_id: int | None = None) -> Revocation | None:
        """See `worker.store.revocations.claim`."""
        return self._soon(
            lambda: revocations.claim(self._db, self._keys, lasts=self._pace.lease, connection_id=connection_id)
        )

    def revoked(self, revocation: Revocation) -> None:
        """See `worker.store.revocations.done`."""
        self._soon(lambda: revocations.done(self._db, revocation))

    def not_revoked(self, revocation: Revocation, *, pause: timedelta) -> None:
        """See `worker.store.revocations.failed`."""
        self._soon(lambda: revocations.failed(self._db, revocation, pause=pause))

    def pending_revocations(self, connection_id: int) -> int:
        """See `worker.store.revocations.pending`."""
        return self._soon(lambda: revocations.pending(self._db, connection_id))

    def anything_left(self) -> bool:
        """Tell whether a consent or a revocation is left over for the sweep."""
        return bool(self.unfinished()) or self._soon(lambda: revocations.any_due(self._db, self._keys))

    def _soon(self, work: Callable[[], T]) -> T:
        return self._db.patiently(work, patience=self._pace.slack)
