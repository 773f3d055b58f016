"""The rules of what people do, and whoever else has a token of theirs."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import requests
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.machine.scene import EXCHANGES, Scene, flags, numbers, stops, workers
from worker import holding
from worker.importing.lines import Lines
from worker.importing.load import Importer, Wishes
from worker.store import fleet as freezing

if TYPE_CHECKING:
    from tests.machine.flights import Flight
    from tests.machine.stage import Stop


class People(Scene):
    """What people do."""

    @precondition(lambda self: self.stage.has_room)
    @rule(
        number=numbers,
        kind=st.sampled_from(["again", "again", "by name", "another company"]),
        worker=st.none() | workers,
        stop=stops(EXCHANGES),
    )
    def consents(self, number: int, kind: str, worker: int | None, stop: Stop | None) -> None:
        """Consent anew, by a link to the connection or by a name of the host's, or to another company.

        A worker exchanges it at once, or it waits.
        """
        mine, is_here = self.customers[number].connected, self._row(number) is not None
        by_name = not is_here or kind == "by name"
        other = self.customers[1 - number].connected.realm_id
        realm_id = other if kind == "another company" and not by_name else mine.realm_id
        accepted = self.world.consents.accepted(f"external:{mine.realm_id}" if by_name else mine.id, realm_id)
        if worker is not None:
            self._exchange(accepted, self.stage.workers[worker], stop)
            self._settle()

    @rule(number=numbers)
    def is_revoked(self, number: int) -> None:
        """End the grant, as a customer does."""
        self.fleet.simulator.revoke(self.customers[number].connected.realm_id)

    @rule(number=numbers, what=st.sampled_from(["refreshes", "syncs", "everything"]), on=flags)
    def is_stopped(self, number: int, what: str, *, on: bool) -> None:
        """Freeze or thaw one connection, or all; hold its syncs, or let them go on."""
        connection_id = self.customers[number].connected.id
        if what == "everything":
            freezing.set_all_frozen(self.fleet.db, frozen=on, reason=None)
        elif what == "refreshes":
            freezing.set_frozen(self.fleet.db, freezing.Choice(connection_id=connection_id), frozen=on)
        else:
            (holding.hold if on else holding.resume)(self.fleet.db, [connection_id])

    @rule(number=numbers)
    def an_old_system_refreshes(self, number: int) -> None:
        """Have somebody else, who has the row's token too, refresh the grant."""
        self.fleet.simulator.clear_faults()
        state = self.book.look()[self.customers[number].connected.realm_id]
        if self._in_hand(state.refresh_token):
            return  # nobody but that process has it
        answer = requests.post(
            self.fleet.simulator.token_url,
            data={"grant_type": "refresh_token", "refresh_token": state.refresh_token},
            auth=(self.fleet.app.client_id, self.secrets[0]),
            timeout=10,
        )
        if answer.ok:
            self.customers[number].doubled = True
            self.outside[number] = (answer.json()["refresh_token"], self.book.passed)

    @precondition(lambda self: self.stage.has_room)
    @rule(number=numbers, aged=flags, stands=flags)
    def is_imported(self, number: int, *, aged: bool, stands: bool) -> None:
        """Import what an old system knows with `--update`: its own newer token, or the one that Intuit has."""
        customer = self.customers[number]
        if self.watch.row(customer) is None:
            return
        token, at = self.outside[number] or (self.book.look()[customer.connected.realm_id].refresh_token, None)
        if self._in_hand(token):
            return  # no old system knows what one process alone has been given
        line = {"realm_id": customer.connected.realm_id, "refresh_token": token}
        if aged or at is not None:
            age = self.book.passed - at if at is not None else timedelta(days=3)
            line["token_obtained_at"] = (datetime.now(UTC) - age).isoformat()  # noqa: TID251  # as a file would say it
        keyring, lookup = self.stage.config.keyring(), self.world.settings.lookup()

        def work(flight: Flight) -> None:
            def progress(step: str, **_: int) -> None:
                if step == "Writing":
                    flight.stand()

            importer = Importer(
                self.fleet.db, keyring, lookup, self.world.settings.apps(), Wishes(update=True), progress
            )
            importer.run(Lines(io.BytesIO(json.dumps(line).encode())))
            row = self.watch.row(customer)
            if row is not None and self.fleet.fingerprint(token) in self.watch.held(row):
                self.book.received.add(token)
                customer.accepted.add(self.fleet.fingerprint(token))

        self.stage.command("import", number, work, stops=stands)
        self._settle()
