"""What is known when all is over: plain facts about both sides, on one clock. The checker sees nothing else.

All times are seconds of the machine's monotonic clock; tokens are named as the provider's journal names them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the provider saw it.

    Attributes:
        connection_id: Whose company; None if the token was unknown.
        issued: The token that it produced or returned, even if no answer carried it.
        rotated: Whether the token changed.
        status: None if nothing was answered.
        written: The whole answer was handed to the connection.
        punished: It ended the grant: its token had been replaced.
    """

    sequence: int
    endpoint: str
    connection_id: int | None
    presented: str | None
    issued: str | None
    rotated: bool
    started: float
    ended: float
    status: int | None = 200
    error: str | None = None
    overlapped: bool = False
    superseded: bool = False
    faults: str = ""
    written: bool = True
    punished: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A line of the ledger. An abandoned one knows neither its end nor what it brought.

    Attributes:
        version: Of the row's token when it was claimed.
        posts: None if it is not known.
    """

    connection_id: int
    outcome: str
    reason: str | None
    worker: str | None
    began: float
    ended: float | None
    exposed_us: int | None = None
    version: int = 0
    posts: int | None = None
    trigger: str = "sweep"
    withheld: str | None = None


@dataclass(frozen=True, slots=True)
class Consented:
    """A consent that was called back: who presented its code, and what came of it.

    Attributes:
        worker: Who took it in order to present the code, and when; None if nobody did.
        lost: The worker said that no grant comes of it, for the answer was lost.
        finished: When it was said what became of it; None if it was not.
    """

    connection_id: int
    worker: str | None
    presented: float | None
    lost: bool = False
    finished: float | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A copy that the escrow took, of a refresh's token or of a consent's."""

    at: float
    connection_id: int
    endpoint: str = "refresh"


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the outbox; `sequence` is None for what operators are told."""

    id: int
    type: str
    connection_id: int | None
    sequence: int | None
    at: float
    delivered: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A connection at the end, and its grant.

    Attributes:
        token: What the row holds; None if it does not open.
        current: What the provider holds as current.
        alive: The grant has not ended.
        overdue_s: For how long it is due; negative if it is not; None if it never is.
    """

    connection_id: int
    status: str
    token: str | None
    current: str
    alive: bool
    overdue_s: float | None
    holds: tuple[str, ...] = ()
    untried: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """A process that was killed with -9."""

    at: float
    pid: int
    role: str = "worker"
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which something was wrong with `where`: a line, a server, or a process that was frozen."""

    where: str
    what: str
    began: float
    ended: float
    pid: int | None = None

    def touches(self, began: float, ended: float) -> bool:
        """Tell whether it and another time have a moment in common."""
        return self.began <= ended and began <= self.ended


@dataclass(frozen=True, slots=True)
class Revoked:
    """A grant that its user ended within QuickBooks."""

    at: float
    connection_id: int


@dataclass(frozen=True, slots=True)
class History:
    """One run.

    Attributes:
        known: Tokens that were in a durable place of ours: rows, ledger, candidates, escrow.
        received: Connection and sequence of each event, in the order in which the host had them.
        received_ids: Ids of all events that the host had.
        surprises: What a caller met that it is not promised to meet.
        stopped: When faults stopped.
        settled_s: How long everything took to settle then; None if it did not.
        restless: What had not settled, in words.
        in_clear: Logs in which a token or a realm id was found.
        kept_within_s: The longest that an answer took in this run to have its copy in a healthy escrow.
        confirm_after_s: How long a first refusal binds everybody.
    """

    began: float
    stopped: float
    deadline_s: float
    lease_s: float
    settled_s: float | None
    calls: tuple[Call, ...]
    attempts: tuple[Attempt, ...]
    events: tuple[Event, ...]
    rows: tuple[Row, ...]
    kills: tuple[Kill, ...] = ()
    spans: tuple[Span, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    known: frozenset[str] = frozenset()
    received: tuple[tuple[int, int], ...] = ()
    received_ids: frozenset[int] = frozenset()
    surprises: tuple[str, ...] = ()
    restless: tuple[str, ...] = ()
    in_clear: tuple[str, ...] = ()
    consented: tuple[Consented, ...] = ()
    puts: tuple[Put, ...] = ()
    kept_within_s: float = 0.25
    confirm_after_s: float = 12.0

    def write(self, file: Path) -> None:
        """Write it down as JSON: it holds fingerprints and our ids, no token and no realm."""
        file.write_text(json.dumps(asdict(self), default=sorted))
