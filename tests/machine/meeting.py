"""Meetings: one thing happens to a connection while another stands still in its middle, at the places that matter."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from qbo_refresh.status import Status
from tests.machine.operating import Operating
from tests.machine.people import People
from tests.machine.scene import ENDS, EXCHANGES, REFRESHES, numbers
from tests.machine.stage import Stop
from tests.machine.working import LEASE, Working

ANSWERED, ESCROWED, UNSAVED = ("intuit", "refresh", "after"), ("escrow", "put", "after"), ("store", "save", "before")
# The stops between answer and save are where most is at stake.
FIRST: list[tuple[str, Stop | None]] = [
    *(("refresh", stop) for stop in (*REFRESHES, ANSWERED, ANSWERED, ANSWERED, ESCROWED, UNSAVED)),
    *(("reconnect", stop) for stop in EXCHANGES),
    *(("disconnect", stop) for stop in (ENDS[0], ENDS[2], ENDS[3])),
    *[("reseal", None)] * 4,
    ("import", None),
]
THEN: list[tuple[str, ...]] = [
    ("reconnect",),
    ("reconnect", "refresh"),
    ("disconnect",),
    ("disconnect", "lease", "revoke"),
    ("disconnect", "lease", "revoke"),
    ("disconnect", "reconnect"),
    ("reseal",),
    ("import",),
    ("refresh",),
    ("lease", "refresh"),
    ("lease", "refresh", "lease", "refresh"),
    ("lease", "reconnect"),
    ("lease", "delete"),
    ("old system", "import"),
    ("freeze",),
]
kills = st.sampled_from([False, False, False, True])
meetings = st.tuples(
    numbers, st.sampled_from(FIRST), st.sampled_from(THEN), st.sampled_from([False, False, False, True])
)
Meeting = tuple[int, tuple[str, Stop | None], tuple[str, ...], bool]


class Meetings(Working, People, Operating):
    """What meets what."""

    @precondition(lambda self: self.stage.has_room)
    @rule(meeting=meetings)
    def meets_another(self, meeting: Meeting) -> None:
        """Have things happen while another of the same connection stands still: drawn singly they seldom meet."""
        number, (first, stop), then, kill = meeting
        self._make_ready(number)
        before = set(self.stage.flights)
        self._begins(number, first, stop, worker=0, stands=True)
        for each in then:
            if self.stage.has_room:
                self._meanwhile(number, each)
                self.watch.look()
        for lane in set(self.stage.flights) - before:
            self._end(self.stage.flights[lane], kill=kill)
        self.ran["meetings"] += 1

    def _make_ready(self, number: int) -> None:
        """Have the connection as most are most of the time: active, its grant alive, in nobody's hands."""
        self.fleet.simulator.clear_faults()
        for flight in list(self.stage.flights.values()):
            if flight.number in {None, number}:
                self._end(flight, kill=False)
        self.is_stopped(number, "everything", on=False)
        self.is_stopped(number, "refreshes", on=False)
        row, state = self._row(number), self.book.look()[self.customers[number].connected.realm_id]
        is_free = row is not None and row.lease_id is None and row.not_before is None
        if not (is_free and state.alive and row.status == Status.ACTIVE):
            self._restart_all()  # whose client secret is honoured, too
            self.consents(number, "again", 0, None)

    def _begins(self, number: int, what: str, stop: Stop | None, *, worker: int, stands: bool = False) -> None:
        match what:
            case "refresh":
                answer = "a wrong invalid_grant" if stop == ("store", "conclude", "before") else "well"
                self.refreshes(number, worker, answer, stop, due=False)
            case "reconnect":
                self.consents(number, "again", worker, stop)
            case "disconnect":
                self.is_disconnected(number, worker, "well", stop)
            case "reseal":
                self.a_key_is_added()
                self.is_sealed_anew(stands=stands)
            case _:
                self.is_imported(number, aged=False, stands=stands)

    def _meanwhile(self, number: int, then: str) -> None:
        match then:
            case "revoke":
                self.revokes_what_is_due(1, None)
            case "refresh in sight":  # what it finds before it asks is looked at before Intuit has answered
                before = set(self.stage.flights)
                self._begins(number, "refresh", ("intuit", "refresh", "before"), worker=1)
                self.watch.look()
                for lane in set(self.stage.flights) - before:
                    self._end(self.stage.flights[lane], kill=False)
            case "delete":
                self.is_deleted(number, 1)
            case "old system":
                self.an_old_system_refreshes(number)
            case "freeze":
                self.is_stopped(number, "refreshes", on=True)
            case "lease":
                if not any(flight.what == "import" for flight in self.stage.flights.values()):
                    self.time_passes(LEASE)
            case _:
                self._begins(number, then, None, worker=1)
