"""The search: every schedule, shortest first, merged where two come to the same place."""

from __future__ import annotations

import array
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.explore.promises import Violation, Watch
from tests.explore.sameness import Sameness
from tests.explore.schedule import Scene

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.explore.schedule import Config, Node


@dataclass(slots=True)
class Found:
    """What a search has found.

    Attributes:
        schedules: Ways to an end; they were merged on the way.
        places: Different places that they came to.
        steps: Moves that were made, each by the real code.
        ends: Places where all attempts had been made.
        left_out: Places that were not gone on from, because there were too many.
        excused: What went wrong and is not promised, by name and how often.
        violation: The first promise that did not hold.
        shortest: The way to it.
    """

    schedules: int = 0
    places: int = 0
    steps: int = 0
    ends: int = 0
    left_out: int = 0
    seconds: float = 0.0
    excused: Counter[str] = field(default_factory=Counter)
    violation: str | None = None
    shortest: list[str] = field(default_factory=list)


class Search:
    """A search through one configuration.

    Args:
        places: At most so many are gone on from at each depth; the others are left out, chosen by `seed`.
    """

    def __init__(self, config: Config, *, places: int | None = None, seed: int = 0) -> None:
        self.scene = Scene(config)
        self.sameness = Sameness(self.scene.world)
        self.found = Found()
        self.watch = Watch(self.scene, self.sameness, self.found.excused)
        self._most = places
        self._random = random.Random(seed)  # noqa: S311  # a sample, no secret
        self._ids: dict[int, int] = {}
        self._came: list[tuple[int, str]] = []
        self._edges = array.array("I")
        self._ends: set[int] = set()

    def run(self, progress: Callable[[Found], None] = lambda _: None) -> Found:
        """Search until the first violation, or to the end."""
        began = time.monotonic()
        level = logging.getLogger("qbo_refresh").level
        logging.getLogger("qbo_refresh").setLevel(logging.CRITICAL + 1)
        try:
            self._run(progress)
        finally:
            logging.getLogger("qbo_refresh").setLevel(level)
            self.found.seconds = time.monotonic() - began
        self.found.places, self.found.ends = len(self._ids), len(self._ends)
        self.found.schedules = self._count()
        return self.found

    def _run(self, progress: Callable[[Found], None]) -> None:
        first = self.scene.first()
        self._enter(first, 0, "")
        frontier = [(0, first)]
        while frontier:
            following: list[tuple[int, Node]] = []
            for number, node in frontier:
                if not self._go_on(number, node, following):
                    return
                if not self.found.steps % 5000:
                    progress(self.found)
            if self._most is not None and len(following) > self._most:
                self.found.left_out += len(following) - self._most
                following = self._random.sample(following, self._most)
            frontier = following

    def _go_on(self, number: int, node: Node, following: list[tuple[int, Node]]) -> bool:
        for move in self.scene.moves(node):
            self.found.steps += 1
            text = move.text
            try:
                reached = self.watch.after(node, move, self.scene.play(node, move))
                known, reached_number = self._enter(reached, number, text)
                self._edges.extend((number, reached_number))
                if known:
                    continue
                following.append((reached_number, reached))
                if self.scene.is_end(reached):
                    self._ends.add(reached_number)
                    text += ", and then sweeps alone"
                    self.watch.end(reached)
            except Violation as violation:
                self.found.violation = violation.promise
                self.found.shortest = [*self._way(number), text]
                return False
        return True

    def _enter(self, node: Node, parent: int, text: str) -> tuple[bool, int]:
        key = self.sameness.key(node)
        number = self._ids.get(key)
        if number is not None:
            return True, number
        number = self._ids[key] = len(self._ids)
        self._came.append((parent, text))
        return False, number

    def _way(self, number: int) -> list[str]:
        way = []
        while number:
            number, text = self._came[number]
            way.append(text)
        return way[::-1]

    def _count(self) -> int:
        """Return how many ways lead to an end: what a search without merging would have to go through."""
        places = len(self._ids)
        waiting, following = [0] * places, [[] for _ in range(places)]  # type: list[int], list[list[int]]
        for parent, child in zip(self._edges[::2], self._edges[1::2], strict=True):
            waiting[child] += 1
            following[parent].append(child)
        ways = [0] * places
        ways[0] = 1
        ready = [0]
        while ready:
            number = ready.pop()
            for child in following[number]:
                ways[child] += ways[number]
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
        return sum(ways[number] for number in self._ends)
