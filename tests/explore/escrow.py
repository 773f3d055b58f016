"""The escrow in memory. `settle` shortens a copy's life at once: the real one may let it live longer, never shorter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.explore.world import Shelf, World
from worker.escrow import SETTLED_S, UNSETTLED_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.attempt import Received

VERSIONS = range(-1, 9)


class MemoryEscrow:
    """Implements `worker.attempt.Escrow` on a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    @staticmethod
    def _key(received: Received) -> tuple[int, int, int]:
        return received.connection_id, received.grant_number, received.base_version

    def connect(self) -> None:
        """Be there."""

    def put(self, received: Received) -> bool:
        """Keep a copy for 30 days."""
        copies = self._copies(self._key(received))
        self._write(self._key(received), (*copies, received), UNSETTLED_S)
        return True

    def settle(self, received: Received) -> None:
        """Shorten the copy's life to 25 h."""
        copies = self._copies(self._key(received))
        if copies:
            self._write(self._key(received), copies, SETTLED_S)

    def find(
        self,
        connection_id: int,
        *,
        grant_number: int,
        base_version: int,
        is_far: bool = False,  # noqa: ARG002  # so few versions here are all near
    ) -> Sequence[Received] | None:
        """Return the copies that came after this version or in place of it, oldest first."""
        return [
            received
            for offset in VERSIONS
            for received in self._copies((connection_id, grant_number, base_version + offset))
        ]

    def _copies(self, key: tuple[int, int, int]) -> tuple[Received, ...]:
        shelf = self._world.shelves.get(key)
        return shelf.copies if shelf is not None and shelf.until > self._world.seconds else ()

    def _write(self, key: tuple[int, int, int], copies: tuple[Received, ...], lives_s: float) -> None:
        shelf = Shelf(copies, self._world.seconds + lives_s)
        self._world.shelves = {**self._world.shelves, key: shelf}
