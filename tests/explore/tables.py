"""The tables that a refresh reads and writes, as values that never change: what was can be put back.

Columns are named as in `qbo_refresh.tables`; those that no decision reads are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from qbo_refresh.status import Event, Hold, Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

START = datetime(2026, 1, 1, tzinfo=UTC)
APP_ID = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of `connections`."""

    id: int
    refresh_token: bytes | None
    refresh_token_fingerprint: bytes | None
    status: Status = Status.ACTIVE
    grant_number: int = 1
    token_version: int = 1
    previous_refresh_token: bytes | None = None
    previous_refresh_token_fingerprint: bytes | None = None
    known_fingerprint: bytes | None = None
    second_writer_at: datetime | None = None
    access_token: bytes | None = None
    token_obtained_at: datetime | None = None
    access_expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    hard_expires_at: datetime | None = None
    expiry_told_days: int | None = None
    lease_id: UUID | None = None
    leased_until: datetime | None = None
    in_doubt: bool = False
    attempt_began_at: datetime | None = None
    next_refresh_at: datetime | None = START
    not_before: datetime | None = None
    frozen: bool = False
    failures: int = 0
    suspect_since: datetime | None = None
    needs_reauth_since: datetime | None = None
    last_refreshed_at: datetime | None = None
    last_outcome: Outcome | None = None
    last_reason: str | None = None
    event_sequence: int = 0

    @property
    def due_at(self) -> datetime | None:
        """When a sweep takes it; None is never."""
        if self.next_refresh_at is None or self.not_before is None:
            return self.next_refresh_at
        return max(self.next_refresh_at, self.not_before)


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of `candidates`."""

    id: int
    connection_id: int
    grant_number: int
    base_version: int
    source: str
    refresh_token: bytes
    fingerprint: bytes
    received_at: datetime
    tried_at: datetime | None = None
    refused_again_at: datetime | None = None
    settled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A row of `refresh_attempts`."""

    connection_id: int
    outcome: Outcome
    reason: str | None = None
    withheld: str | None = None
    began_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A row of `app_blocks`."""

    reason: str
    connection_ids: frozenset[int]
    blocked_at: datetime | None
    probe_at: datetime


@dataclass(frozen=True, slots=True)
class App:
    """The one row of `apps`, with its blocks."""

    throttled_until: datetime | None = None
    guard_tripped_at: datetime | None = None
    guard_released_at: datetime | None = None
    blocks: Mapping[bytes, Block] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Control:
    """The row of `control`; its timeline is the one that was seen last."""

    frozen: bool = False
    timeline: int = 1
    epoch_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """All of them, at one moment."""

    rows: Mapping[int, Row] = field(default_factory=dict)
    candidates: tuple[Kept, ...] = ()
    holds: frozenset[tuple[int, Hold]] = frozenset()
    events: tuple[tuple[int | None, Event], ...] = ()
    ledger: Mapping[UUID, Written] = field(default_factory=dict)
    app: App = field(default_factory=App)
    control: Control = field(default_factory=Control)

    def has_concluded_since(self, connection_id: int, moment: datetime) -> bool:
        """Whether an attempt that began since then lived to say what came of it."""
        return any(
            each.connection_id == connection_id and each.began_at is not None and each.began_at >= moment
            for each in self.ledger.values()
        )
