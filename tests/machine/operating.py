"""The rules of what operators do: keys, client secrets, restarts, and blobs and caches that are meddled with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from qbo_refresh.status import Outcome, Status
from tests.machine.scene import Scene, flags, numbers
from tests.support.attempts import FORCED
from worker.attempt import Trigger
from worker.refresh import refresh
from worker.resealing import Resealer

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.sealing import Keyring, Place
    from qbo_refresh.secret import Secret
    from tests.machine.flights import Flight


class Operating(Scene):
    """What operators do."""

    @rule(number=numbers, from_other=flags)
    def a_blob_is_put_back(self, number: int, *, from_other: bool) -> None:
        """Put a blob of the older grant, or of another connection, into the row: nothing is sent. Then put it right."""
        row = self.watch.row(self.customers[number])
        blob = self._strange_blob(number, row, from_other=from_other) if row is not None else None
        if row is None or blob is None or row.status != Status.ACTIVE or row.lease_id is not None or row.in_doubt:
            return
        if any(each.settled_at is None for each in self.fleet.candidates(row.id)):
            return  # an attempt goes on with those
        calls = len(self.fleet.simulator.journal())
        self.fleet.update(row.id, "refresh_token = %(blob)s, not_before = NULL", blob=blob)
        by = self.stage.workers[0].refresher()
        result = refresh(by, row.id, trigger=Trigger.ADHOC, freshness=FORCED)
        presented = len(self.fleet.simulator.journal()) > calls
        if result.outcome != Outcome.SKIPPED:
            assert (result.reason, presented) == ("unreadable", False), "a blob opened in a place that is not its own"
        self.fleet.update(
            row.id,
            "refresh_token = %(blob)s, not_before = NULL, last_reason = NULL",
            blob=row.refresh_token,
        )

    @rule()
    def a_key_is_added(self) -> None:
        """Have a new key seal: processes that start from now on have it."""
        if len(self.stage.config.keys) < 3:
            self._deploy(self.stage.config.with_new_key())

    @rule(keeps=flags, fast=flags)
    def the_client_secret_changes(self, *, keeps: bool, fast: bool) -> None:
        """Rotate the client secret at Intuit, which goes on honouring the old one or does not."""
        new = f"secret-{len(self.secrets)}-{self.ran['examples']}"
        self.secrets.insert(0, new)
        self.fleet.simulator.set_secrets(new, *self.secrets[1:2][: int(keeps)])
        self._deploy(replace(self.stage.config, secrets=(new, *self.secrets[1:2])))
        if fast:
            self._restart_all()

    @rule(which=st.sampled_from(["first worker", "second worker", "host", "all"]))
    def is_restarted(self, which: str) -> None:
        """Restart with the newest configuration; what is in flight ends before."""
        if which == "all":
            self._restart_all()
            return
        if which == "host":
            self.stage.restart_host()
            return
        process = self.stage.workers[which == "second worker"]
        for flight in [flight for flight in self.stage.flights.values() if flight.by is process]:
            self._end(flight, kill=False)
        process.restart(self.stage.config)

    @precondition(lambda self: self.stage.has_room)
    @rule(stands=flags)
    def is_sealed_anew(self, *, stands: bool) -> None:
        """Run `keys rotate`, which may stand still between reading and writing."""
        keyring = self.stage.config.keyring()

        def work(flight: Flight) -> object:
            slow: Any = _Slow(keyring, flight.stand)
            return Resealer(self.fleet.db, slow, self.stage.escrow, lambda _: None).run()

        self.stage.command("reseal", None, work, stops=stands)
        self._settle()

    @precondition(lambda self: len(self.stage.config.keys) > 1 and self._all_started_anew())
    @rule()
    def an_old_key_is_removed(self) -> None:
        """Run `keys rotate` and take out what it calls removable. Nobody is frozen past his lease."""
        keyring = self.stage.config.keyring()
        report = Resealer(self.fleet.db, keyring, self.stage.escrow, lambda _: None).run()
        gone = report.removable(keyring.key_ids)
        kept = tuple(key for key in self.stage.config.keys if key.partition(":")[0] not in gone)
        if gone:
            self.ran["keys removed"] += len(gone)
            # What is in flight goes on with the keys that it was started with; new ones have the rest.
            self._deploy(replace(self.stage.config, keys=kept))
            for process in self.stage.workers:
                process.restart(self.stage.config)
            self.stage.restart_host()

    @rule()
    def redis_is_emptied(self) -> None:
        """Flush Valkey: with a crash before it, a second fault, which may cost the token that only it had."""
        self.world.valkey.flushall()
        self._forgive(token for token in self.book.received)

    def _strange_blob(self, number: int, row: Any, *, from_other: bool) -> bytes | None:
        if from_other:
            other = self.watch.row(self.customers[1 - number])
            return None if other is None or other.refresh_token is None else bytes(other.refresh_token)
        if row.grant_number == 1:
            return None
        token = self.book.order[self.customers[number].connected.realm_id][0]
        return self.fleet.seal(row.id, token, grant_number=row.grant_number - 1)

    def _restart_all(self) -> None:
        for which in ("first worker", "second worker", "host"):
            self.is_restarted(which)

    def _all_started_anew(self) -> bool:
        first = self.stage.config.keys[0]
        return (
            all(each.config.keys == self.stage.config.keys for each in self.stage.workers)
            and all(
                flight.first_key == first and not self.stage.is_late(flight) for flight in self.stage.flights.values()
            )
            and self.stage.host.keys == self.stage.config.keys
        )


class _Slow:
    """A keyring that stands still before it seals for the first time."""

    def __init__(self, keyring: Keyring, stand: Callable[[], None]) -> None:
        self._keyring, self._stand = keyring, stand
        self.key_ids = keyring.key_ids
        self.open = keyring.open

    def seal(self, secret: Secret, place: Place) -> bytes:
        """Stand still, once, and seal."""
        self._stand()
        return self._keyring.seal(secret, place)
