"""How much of everything the demo does: numbers that follow from the number of connections. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

FEWEST, MOST = 20, 1000
LASTS_AT_MOST_S: Final = 85.0
DAY_S: Final = 86_400

# What a day has room for and a minute has not. Everything else runs as it does for users.
SHORTENED: Final = {
    "LEASE_SECONDS": 15,
    "CONFIRM_AFTER_SECONDS": 5,
    "BACKOFF_SECONDS": 2,
    "SWEEP_SECONDS": 1,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One performance.

    Attributes:
        connections: How many there are, FEWEST to MOST.
        seed: Chooses whose grants are revoked and whose calls fail.
    """

    connections: int
    seed: int

    @property
    def per_sweep(self) -> int:
        """How many connections one sweep may publish: all of them take about twenty sweeps, of a second each."""
        return max(4, self.connections // 20)

    @property
    def refresh_per_minute(self) -> int:
        """The same as a value of REFRESH_PER_MINUTE."""
        return self.per_sweep * 60 // SHORTENED["SWEEP_SECONDS"]

    @property
    def outage_s(self) -> float:
        """How long calls fail: a fifth of the time that the sweeps take."""
        return self.connections / self.per_sweep / 5

    @property
    def expected_catch(self) -> int:
        """How many calls of the worker that is killed must be open at Intuit: a third of a sweep, two at least."""
        return max(2, min(10, self.per_sweep // 3))

    def revoked(self) -> frozenset[int]:
        """Return whose grants are revoked, as positions in the order of expiry, which is the order of the sweeps.

        Early enough that others are refreshed after their refusal, and fewer than trip the guard against mass verdicts.
        """
        count = max(3, min(12, self.connections // 25))
        early = range(self.connections // 10, self.connections * 45 // 100)
        return frozenset(random.Random(self.seed).sample(early, count))  # noqa: S311  # chooses, and hides nothing

    def ages_s(self) -> list[tuple[int, float]]:
        """Return how many grants are how old, the oldest first: one to eight days before the end of their 101.

        So near to expiry a connection is due as soon as it is imported; any other waits for its time of the day.
        """
        eighth, rest = divmod(self.connections, 8)
        return [(eighth + (day <= rest), (101 - day) * DAY_S) for day in range(1, 9)]
