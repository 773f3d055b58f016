"""The faults in force, and which of them a call meets. Pure: `now` is passed in."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from intuit_simulator.faults import Fault, Phase


@dataclass(frozen=True, slots=True)
class Hit:
    """The faults that one call meets."""

    delay: Fault | None = None
    answer: Fault | None = None
    delivery: Fault | None = None

    @property
    def labels(self) -> str | None:
        """Name them for the journal."""
        return ",".join(each.label for each in (self.delay, self.answer, self.delivery) if each) or None


NOTHING: Final = Hit()


@dataclass(slots=True)
class Armed:
    """A fault in force. `until` is by the clock whose `now` the calls are matched with."""

    fault: Fault
    until: float
    rng: random.Random
    applied: int = 0

    def matches(self, endpoint: str, realm_id: str | None, now: float) -> bool:
        """Say whether the fault meets this call; draws from the generator if everything else fits."""
        fault = self.fault
        return (
            fault.endpoint in (endpoint, "any")
            and (fault.count is None or self.applied < fault.count)
            and now < self.until
            and (fault.realms is None or realm_id in fault.realms)
            and (fault.share >= 1 or self.rng.random() < fault.share)
        )


class Faults:
    """The faults in force, oldest first."""

    def __init__(self) -> None:
        self._armed: dict[str, Armed] = {}
        self._ids = count(1)

    def add(self, fault: Fault, now: float) -> Fault:
        """Put a fault in force and return it with its id; one with the same id is replaced."""
        named = fault if fault.id else replace(fault, id=f"f{next(self._ids)}")
        until = float("inf") if fault.seconds is None else now + fault.seconds
        self._armed[named.id] = Armed(named, until, random.Random(fault.seed))
        return named

    def remove(self, fault_id: str) -> bool:
        """Lift a fault; return whether it was there."""
        return self._armed.pop(fault_id, None) is not None

    def ids(self) -> list[str]:
        """Return the ids, oldest first."""
        return list(self._armed)

    def seconds_left(self, fault_id: str, now: float) -> float | None:
        """Return how long the fault stays in force; None without end, 0 if it has been lifted."""
        armed = self._armed.get(fault_id)
        if armed is None:
            return 0
        return None if armed.fault.seconds is None else max(0, armed.until - now)

    def __iter__(self) -> Iterator[Armed]:
        return iter(list(self._armed.values()))

    def match(self, endpoint: str, realm_id: str | None, now: float) -> Hit:
        """Return what this call meets, and count it as applied."""
        if not self._armed:
            return NOTHING
        met: dict[Phase, Fault] = {}
        for armed in self._armed.values():
            phase = armed.fault.phase
            if phase not in met and armed.matches(endpoint, realm_id, now):
                armed.applied += 1
                met[phase] = armed.fault
        return Hit(met.get(Phase.DELAY), met.get(Phase.ANSWER), met.get(Phase.DELIVERY))
