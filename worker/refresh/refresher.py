"""What an attempt works with, and what it comes to."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker import clock
from worker.intuit import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qbo_refresh.sealing import Keyring, Lookup
    from qbo_refresh.secret import Secret
    from qbo_refresh.status import Outcome
    from worker.attempt import Escrow, Store
    from worker.intuit import TokenEndpoint
    from worker.policy import Pace


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """One of an app's secrets.

    Attributes:
        name: `current` or `previous`, as the ledger says it.
    """

    name: str
    secret: Secret
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class Refresher:
    """What an attempt works with: its adapters, its keys and its pace.

    Attributes:
        secrets: App id → its client secrets, the one in use first.
        worker: This process's name in the ledger.
        may_claim: False while a save of this process waits for the database, or the process is stopping.
        boottime: The clock that the attempt measures itself with.
    """

    store: Store
    escrow: Escrow
    intuit: TokenEndpoint
    keyring: Keyring
    lookup: Lookup
    pace: Pace
    secrets: Mapping[int, tuple[ClientSecret, ...]]
    worker: str
    may_claim: Callable[[], bool]
    jitter: Callable[[], float] = random.random
    boottime: Callable[[], float] = clock.boottime

    def gate(self, opened_at: float) -> Gate:
        """Return what is asked at the first byte of each POST of an attempt that began then."""
        return Gate(opened_at, self.pace.lease, self.pace.deadline, self.pace.slack, boottime=self.boottime)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request to refresh; safe to store and to show.

    Attributes:
        rotated: Whether the refresh token's value changed; None unless refreshed.
        once_more: Only the previous token stands against a verdict: it is asked about at once.
    """

    connection_id: int
    outcome: Outcome
    reason: str | None = None
    rotated: bool | None = None
    once_more: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the task's result."""
        return {
            "connection_id": self.connection_id,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "rotated": self.rotated,
        }
