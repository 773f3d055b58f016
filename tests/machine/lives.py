"""The machine: two connections, whatever may happen to them in any order, and what must hold all along and at rest."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from tests.machine.meeting import ANSWERED, UNSAVED, Meeting, Meetings, meetings
from tests.machine.scene import flags
from tests.machine.watch import Customer, Watch
from tests.machine.working import DAY, HOUR, LEASE
from worker.store import fleet as freezing


class Lives(Meetings):
    """Two connections, two workers, one provider, one host; up to three use cases stand still."""

    @initialize(spreads=flags, replaced=flags, first=st.lists(meetings, min_size=3, max_size=3))
    def begin(self, *, spreads: bool, replaced: bool, first: list[Meeting]) -> None:
        """Start with two connections that are due, and with meetings: by chance alone there are few."""
        self.stage = self.world.start_anew(self.policy, revoke_spreads=spreads, revoke_replaced=replaced)
        self.book, self.fleet = self.stage.book, self.world.fleet
        self.secrets = [self.world.environment["INTUIT_CLIENT_SECRET"]]
        self.customers = [Customer(each) for each in self.fleet.connect(2)]
        self.book.received |= {each.connected.refresh_token for each in self.customers}
        for each in self.customers:
            each.accepted.add(self.fleet.fingerprint(each.connected.refresh_token))
        self.given_up, self.outside = set(), [None, None]
        self.watch = Watch(self.stage, self.customers)
        self.ran["examples"] += 1
        self.time_passes(DAY)  # so that a provider that rotates daily does
        dies = (0, ("refresh", UNSAVED), ("lease", "refresh in sight"), True)  # its copy in the escrow is found
        ended = (1, ("refresh", ANSWERED), ("disconnect", "lease", "revoke"), False)  # its token comes after the end
        for meeting in (dies, ended, *first):
            self.meets_another(meeting)
            self.everything_holds()

    @invariant()
    def everything_holds(self) -> None:
        """Look at it all."""
        if hasattr(self, "watch"):
            self.ran["steps"] += 1
            self.watch.look()
            assert self.world.refused.lines == []

    def teardown(self) -> None:
        """Let all faults stop and a day and a half pass: everybody is as Intuit knows them, and syncs run."""
        if not hasattr(self, "watch"):
            return
        try:
            while self.stage.flights:
                self._end(next(iter(self.stage.flights.values())), kill=False)
            self._rest()
        finally:
            for flight in list(self.stage.flights.values()):
                flight.go_on(kill=True)

    def _rest(self) -> None:
        self.fleet.simulator.clear_faults()
        freezing.set_all_frozen(self.fleet.db, frozen=False, reason=None)
        self.fleet.update(None, "frozen = false")
        self._restart_all()
        for time in (LEASE, HOUR, HOUR, 3 * HOUR, DAY, HOUR):
            self.time_passes(time)
            for authorization_id in self._waiting():
                self._exchange(authorization_id, self.stage.workers[0], None)
                self._settle()
            self.revokes_what_is_due(0, None)
            for number in range(len(self.customers)):
                self.refreshes(number, 0, "well", None, due=False)
            self.watch.look()
        self.watch.rests(given_up=self.given_up)
        self.watch.escrow_opens()
        for number in range(len(self.customers)):
            self.a_blob_is_put_back(number, from_other=False)
