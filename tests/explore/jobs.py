"""One search as a process of its own does it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.explore import worker
from tests.explore.designs import WRONG
from tests.explore.schedule import Config
from tests.explore.search import Found, Search

if TYPE_CHECKING:
    from intuit_simulator.policy import PolicyName

EVERY_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Job:
    """One search."""

    policy: PolicyName
    witness: bool
    attempts: int
    faults: int
    design: str | None
    places: int | None
    seed: int

    @property
    def title(self) -> str:
        """What is searched, in words."""
        who = "with a witness" if self.witness else "alone"
        return f"{self.policy}, {who}, {self.attempts} attempts, {self.faults} faults"

    def search(self) -> Found:
        """Do it."""
        design = WRONG[self.design] if self.design else worker.refresher
        config = Config(self.policy, self.witness, self.attempts, self.faults, design=design)
        return Search(config, places=self.places, seed=self.seed).run(self._progress)

    def _progress(self, found: Found) -> None:
        if not found.steps % EVERY_STEPS:
            print(f"  … {self.title}: {found.steps:,} steps", file=sys.stderr, flush=True)
