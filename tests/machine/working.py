"""The rules of what workers do, and of what stands still in the middle."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.machine.scene import ANSWERS, ENDS, EXCHANGES, REFRESHES, Scene, flags, numbers, stops, workers
from tests.support.attempts import FORCED
from worker.attempt import IF_DUE, Trigger
from worker.ending import NotDeleted, delete, disconnect, revoke_due
from worker.refresh import refresh

if TYPE_CHECKING:
    from tests.machine.stage import Stop

HALF, LEASE, HOUR, DAY = timedelta(seconds=30), timedelta(seconds=61), timedelta(hours=1), timedelta(hours=25)
answers = st.sampled_from(["well", "well", "well", *sorted(ANSWERS)])
# A 400 says that a token is gone: no lies about that.
ended = st.sampled_from(["well", "well", "503", "503 after all", "nothing", "nothing after all", "invalid_client"])


class Working(Scene):
    """What workers do."""

    @precondition(lambda self: self.stage.has_room)
    @rule(number=numbers, worker=workers, answer=answers, stop=stops(REFRESHES), due=flags)
    def refreshes(self, number: int, worker: int, answer: str, stop: Stop | None, *, due: bool) -> None:
        """Refresh a connection, if it may go."""
        self._arm(answer, number, "token")
        freshness = IF_DUE if due else FORCED
        connection_id = self.customers[number].connected.id
        self.stage.fly(
            "refresh",
            number,
            self.stage.workers[worker],
            lambda by, _exchanger, _ender: refresh(by, connection_id, trigger=Trigger.ADHOC, freshness=freshness),
            stop,
        )
        self._settle()

    @precondition(lambda self: self.stage.has_room and self._waiting())
    @rule(worker=workers, pick=st.integers(0, 9), answer=answers, stop=stops(EXCHANGES))
    def is_exchanged(self, worker: int, pick: int, answer: str, stop: Stop | None) -> None:
        """Exchange a code that was brought."""
        waiting = self._waiting()
        authorization_id = waiting[pick % len(waiting)]
        self._arm(answer, None, "token")
        by = self.stage.workers[worker]
        self._exchange(authorization_id, by, stop)
        self._settle()

    @precondition(lambda self: self.stage.has_room)
    @rule(number=numbers, worker=workers, answer=ended, stop=stops(ENDS))
    def is_disconnected(self, number: int, worker: int, answer: str, stop: Stop | None) -> None:
        """Disconnect."""
        self._arm(answer, number, "revoke")
        connection_id = self.customers[number].connected.id
        by = self.stage.workers[worker]
        self.stage.fly("disconnect", number, by, lambda _, _to, ender: disconnect(ender, connection_id), stop)
        self._settle()

    @precondition(lambda self: self.stage.has_room)
    @rule(worker=workers, stop=stops(ENDS[1:]))
    def revokes_what_is_due(self, worker: int, stop: Stop | None) -> None:
        """Do the sweep's part for ended connections."""
        self.stage.fly("revoke", None, self.stage.workers[worker], lambda _, _to, ender: revoke_due(ender), stop)
        self._settle()

    @precondition(lambda self: self.stage.has_room)
    @rule(number=numbers, worker=workers)
    def is_deleted(self, number: int, worker: int) -> None:
        """Delete a connection, if nothing is under way for it."""
        connection_id = self.customers[number].connected.id

        def work(_: object, _to: object, ender: Any) -> None:
            with contextlib.suppress(NotDeleted):
                delete(ender, self.stage.escrow, connection_id, keep_grant=False)

        self.stage.fly("delete", number, self.stage.workers[worker], work, None)
        self._settle()

    # What stands still.

    @precondition(lambda self: self.stage.flights)
    @rule(pick=st.integers(0, 2), kill=st.sampled_from([False, False, True]))
    def goes_on(self, pick: int, *, kill: bool) -> None:
        """Let what stands still go on, or kill it."""
        standing = list(self.stage.flights.values())
        flight = standing[pick % len(standing)]
        self._end(flight, kill=kill)

    @precondition(lambda self: not any(flight.what == "import" for flight in self.stage.flights.values()))
    @rule(time=st.sampled_from([HALF, LEASE, LEASE, HOUR, DAY]))
    def time_passes(self, time: timedelta) -> None:
        """Let leases and pauses run out, here and at Intuit."""
        self.fleet.let_pass(time, at_intuit=True)
        self.book.passed += time
        for flight in self.stage.flights.values():
            if flight.has_sent and flight.number is not None and self.stage.is_late(flight):
                self.customers[flight.number].was_frozen = True
