"""The state of a running simulator: records, clock, faults, journal. Everything of it may be replaced by a reset."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from intuit_simulator.armed import Faults
from intuit_simulator.book import Book
from intuit_simulator.clients import Clients
from intuit_simulator.faults import Fault
from intuit_simulator.journal import Journal
from intuit_simulator.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a simulator starts with, and returns to on a reset."""

    policy: Policy = field(default_factory=Policy)
    clients: Mapping[str, Iterable[str]] = field(default_factory=dict, repr=False)
    keeps_journal: bool = True


class Simulation:
    """One provider. Lives in one event loop; nothing here is thread-safe."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.base_url = ""
        self.faults = Faults()
        self.in_flight: dict[int, OpenCall] = {}
        self._releases: dict[str, asyncio.Event] = {}
        self._begin()

    def _begin(self) -> None:
        self.clients = Clients(self.setup.clients)
        self.book = Book(self.setup.policy)
        self.journal = Journal(keeps=self.setup.keeps_journal)
        self.offset = 0.0
        self.api_answers: Counter[str] = Counter()

    def now(self) -> float:
        """Return the simulator's time, seconds since 1970."""
        return time.time() + self.offset

    def set_time(self, now: float) -> None:
        """Let it be this time now; it goes on from there."""
        self.offset = now - time.time()

    def add_fault(self, fault: Fault) -> Fault:
        """Put a fault in force from now on."""
        return self.faults.add(fault, time.monotonic())

    def lift_fault(self, fault_id: str) -> bool:
        """Lift a fault and let go the calls that it holds."""
        event = self._releases.pop(fault_id, None)
        if event:
            event.set()
        return self.faults.remove(fault_id) or event is not None

    def lift_all_faults(self) -> int:
        """Lift all faults; return how many there were."""
        ids = {*self.faults.ids(), *self._releases}
        return sum(self.lift_fault(fault_id) for fault_id in ids)

    def release_of(self, fault_id: str) -> asyncio.Event:
        """Return the event that ends a freeze."""
        return self._releases.setdefault(fault_id, asyncio.Event())

    def empty_journal(self, *, keeps: bool) -> None:
        """Begin a new journal, kept or not."""
        self.journal = Journal(keeps=keeps)

    def reset(self) -> None:
        """Forget everything but the setup; calls under way end against the forgotten records."""
        self.lift_all_faults()
        self._begin()


@dataclass(slots=True)
class OpenCall:
    """A call that has not ended."""

    endpoint: str
    started: float
    realm_id: str | None
    presented: str | None
    faults: str | None
