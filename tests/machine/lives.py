"""The rules: whatever may happen to two connections, with up to three use cases standing still in the middle."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import requests
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qbo_refresh.secret import Secret
from qbo_refresh.status import Outcome, Status
from tests.machine.intuit import Book
from tests.machine.stage import Config, Process, Stage, Stop
from tests.machine.watch import Customer, Watch
from tests.support.attempts import FORCED
from worker import holding
from worker.attempt import IF_DUE, Trigger
from worker.ending import NotDeleted, delete, disconnect, revoke_due
from worker.exchange import exchange
from worker.importing.lines import Lines
from worker.importing.load import Importer, Wishes
from worker.refresh import Result, refresh
from worker.resealing import Resealer
from worker.store import fleet as freezing

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from concurrent.futures import ThreadPoolExecutor

    import redis

    from qbo_refresh.sealing import Keyring, Place
    from tests.machine.flights import Flight
    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime
    from worker.settings import Settings

HALF, LEASE, HOUR, DAY = timedelta(seconds=30), timedelta(seconds=61), timedelta(hours=1), timedelta(hours=25)
# What Intuit answers once.
ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "503": ("unavailable", {}),
    "503 after all": ("unavailable", {"rotate": True}),
    "html after all": ("html", {}),
    "nothing": ("drop", {}),
    "nothing after all": ("drop", {"rotate": True}),
    "cut": ("cut", {"after_bytes": 40, "of": "body"}),
    "cut near the end": ("cut", {"after_bytes": 1000, "of": "body"}),
    "429": ("throttled", {}),
    "invalid_client": ("invalid_client", {}),
    "invalid_request": ("answer", {"status": 400, "error": "invalid_request"}),
    "a wrong invalid_grant": ("invalid_grant", {}),
}
REFRESHES: list[Stop] = [
    ("store", "claim", "after"),
    ("intuit", "refresh", "before"),
    ("intuit", "refresh", "after"),
    ("escrow", "put", "after"),
    ("store", "save", "before"),
    ("store", "save", "after"),
    ("store", "conclude", "before"),
]
EXCHANGES: list[Stop] = [
    ("store", "claim", "after"),
    ("intuit", "exchange", "before"),
    ("intuit", "exchange", "after"),
    ("escrow", "put", "after"),
    ("store", "install", "before"),
    ("store", "install", "after"),
]
ENDS: list[Stop] = [
    ("store", "disconnect", "after"),
    ("escrow", "find", "before"),
    ("intuit", "revoke", "before"),
    ("intuit", "revoke", "after"),
    ("store", "revoked", "before"),
]
_START_ANEW = """
DELETE FROM qbo.authorizations; DELETE FROM qbo.revocations; DELETE FROM qbo.external_ids; DELETE FROM qbo.outbox;
DELETE FROM qbo.sync_holds; DELETE FROM qbo.candidates; DELETE FROM qbo.refresh_attempts; DELETE FROM qbo.connections;
DELETE FROM qbo.app_blocks;
UPDATE qbo.apps SET throttled_until = NULL, guard_tripped_at = NULL, guard_released_at = NULL, population_at = NULL;
UPDATE qbo.control SET frozen = false
"""
numbers, workers, flags = st.integers(0, 1), st.integers(0, 1), st.booleans()
answers = st.sampled_from(["well", "well", "well", *sorted(ANSWERS)])
# A 400 says that a token is gone: no lies about that.
ended = st.sampled_from(["well", "well", "503", "503 after all", "nothing", "nothing after all", "invalid_client"])


def stops(places: list[Stop]) -> st.SearchStrategy[Stop | None]:
    """Draw where a use case stands still; None for nowhere."""
    return st.none() | st.sampled_from(places)


@dataclass(frozen=True, slots=True)
class World:
    """What all examples share."""

    fleet: Fleet
    runtimes: tuple[Runtime, Runtime]
    settings: Settings
    consents: Consents
    valkey: redis.Redis
    lanes: tuple[ThreadPoolExecutor, ...]
    environment: dict[str, str]

    def start_anew(self, policy: str, **options: bool) -> Stage:
        """Forget everything."""
        for statement in _START_ANEW.split(";"):
            self.fleet.db.execute(statement)
        self.valkey.flushall()
        self.fleet.simulator.reset()
        self.fleet.simulator.set_policy(policy, **options)
        config = Config((self.environment["TOKEN_KEYS"],), (self.environment["INTUIT_CLIENT_SECRET"],))
        self.fleet.keyring = config.keyring()
        processes = (Process(self.runtimes[0], config), Process(self.runtimes[1], config))
        escrow = self.runtimes[0].escrow
        stage = Stage(
            self.fleet,
            Book(self.fleet.simulator),
            self.settings,
            escrow,
            self.consents,
            processes,
            self.lanes,
            config,
            config,
        )
        stage.restart_host()
        return stage


class Lives(RuleBasedStateMachine):
    """Two connections, two workers, one provider, one host."""

    world: ClassVar[World]
    policy: ClassVar[str]
    ran: ClassVar[Counter[str]]

    @initialize(spreads=flags, replaced=flags)
    def begin(self, *, spreads: bool, replaced: bool) -> None:
        """Start with two connections that are due."""
        self.stage = self.world.start_anew(self.policy, revoke_spreads=spreads, revoke_replaced=replaced)
        self.book, self.fleet = self.stage.book, self.world.fleet
        self.customers = [Customer(each) for each in self.fleet.connect(2)]
        self.book.received |= {each.connected.refresh_token for each in self.customers}
        self.watch = Watch(self.stage, self.customers)
        self.given_up: set[str] = set()
        self.outside: list[tuple[str, timedelta] | None] = [None, None]
        self.ran["examples"] += 1

    # What a worker does.

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

    @precondition(lambda self: self.stage.has_room)
    @rule(
        number=numbers,
        first=st.sampled_from(["refresh", "refresh", "refresh", "exchange", "disconnect", "reseal", "import"]),
        place=st.integers(0, 6),
        then=st.sampled_from(["refresh", "reconnect", "disconnect", "reseal", "import", "delete", "freeze"]),
        late=flags,
        kill=st.sampled_from([False, False, False, True]),
    )
    def meets_another(self, number: int, first: str, place: int, then: str, *, late: bool, kill: bool) -> None:
        """Have one thing happen while another of the same connection stands still: drawn singly they seldom meet."""
        before = set(self.stage.flights)
        match first:
            case "refresh":
                self.refreshes(number, 0, "well", REFRESHES[place % len(REFRESHES)], due=False)
            case "exchange":
                self.consents(number, "again", 0, EXCHANGES[place % len(EXCHANGES)])
            case "disconnect":
                self.is_disconnected(number, 0, "well", ENDS[place % len(ENDS)])
            case "reseal":
                self.a_key_is_added()
                self.is_sealed_anew(stands=True)
            case _:
                self.is_imported(number, aged=False, stands=True)
        if late and first != "import":
            self.time_passes(LEASE)
        if self.stage.has_room:
            self._meanwhile(number, then)
        for lane in set(self.stage.flights) - before:
            self._end(self.stage.flights[lane], kill=kill)

    def _meanwhile(self, number: int, then: str) -> None:
        match then:
            case "refresh":
                self.refreshes(number, 1, "well", None, due=False)
            case "reconnect":
                self.consents(number, "again", 1, None)
            case "disconnect":
                self.is_disconnected(number, 1, "well", None)
            case "reseal":
                self.a_key_is_added()
                self.is_sealed_anew(stands=False)
            case "import":
                self.is_imported(number, aged=False, stands=False)
            case "delete":
                self.is_deleted(number, 1)
            case _:
                self.is_stopped(number, "refreshes", on=True)

    # What people do.

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
        customer = self.customers[number]
        realm_id = self.customers[1 - number if kind == "another company" else number].connected.realm_id
        is_here = self.watch.row(customer) is not None
        name = customer.connected.id if is_here and kind != "by name" else f"external:{customer.connected.realm_id}"
        accepted = self.world.consents.accepted(name, realm_id)
        if worker is not None:
            by = self.stage.workers[worker]
            self.stage.fly("exchange", None, by, lambda _, to, _ender: exchange(to, accepted), stop)
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
        answer = requests.post(
            self.fleet.simulator.token_url,
            data={"grant_type": "refresh_token", "refresh_token": state.refresh_token},
            auth=(self.fleet.app.client_id, self._secrets[0]),
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

        self.stage.command("import", number, work, stops=stands)
        self._settle()

    @rule(number=numbers, from_other=flags)
    def a_blob_is_put_back(self, number: int, *, from_other: bool) -> None:
        """Put a blob of the older grant, or of another connection, into the row: nothing is sent. Then put it right."""
        row = self.watch.row(self.customers[number])
        blob = self._strange_blob(number, row, from_other=from_other) if row is not None else None
        if row is None or blob is None or row.status != Status.ACTIVE or row.lease_id is not None or row.in_doubt:
            return
        if any(each.tried_at is None for each in self.fleet.candidates(row.id)):
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

    # What operators do.

    @rule()
    def a_key_is_added(self) -> None:
        """Have a new key seal: processes that start from now on have it."""
        if len(self.stage.config.keys) < 3:
            self._deploy(self.stage.config.with_new_key())

    @rule(keeps=flags, fast=flags)
    def the_client_secret_changes(self, *, keeps: bool, fast: bool) -> None:
        """Rotate the client secret at Intuit, which goes on honouring the old one or does not."""
        new = f"secret-{len(self._secrets)}-{self.ran['examples']}"
        self._secrets.insert(0, new)
        self.fleet.simulator.set_secrets(new, *self._secrets[1:2][: int(keeps)])
        self._deploy(replace(self.stage.config, secrets=(new, *self._secrets[1:2])))
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

    @invariant()
    def everything_holds(self) -> None:
        """Look at it all."""
        if hasattr(self, "watch"):
            self.ran["steps"] += 1
            self.watch.look()

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
        for time in (HOUR, HOUR, HOUR, 3 * HOUR, DAY, HOUR):
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

    # The rest.

    @property
    def _secrets(self) -> list[str]:
        if not hasattr(self, "_of_intuit"):
            self._of_intuit = [self.world.environment["INTUIT_CLIENT_SECRET"]]
        return self._of_intuit

    def _exchange(self, authorization_id: int, by: Process, stop: Stop | None) -> None:
        self.stage.fly("exchange", None, by, lambda _, to, _ender: exchange(to, authorization_id), stop)

    def _waiting(self) -> list[int]:
        rows = self.fleet.db.execute(
            "SELECT id FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL ORDER BY id"
        )
        return [row.id for row in rows]

    def _arm(self, answer: str, number: int | None, endpoint: str) -> None:
        if answer != "well":
            kind, options = ANSWERS[answer]
            realms = None if number is None else [self.customers[number].connected.realm_id]
            self.fleet.simulator.fault(kind, count=1, realm_ids=realms, endpoint=endpoint, **options)

    def _end(self, flight: Flight, *, kill: bool) -> None:
        late = self.stage.is_late(flight)
        flight.go_on(kill=kill)
        self._settle()
        if kill:
            # Where nobody looks any more once the lease is over: a second fault, after the freeze.
            self._forgive(flight.hand, whatever=late)

    def _settle(self) -> None:
        """Take note of what is over."""
        for flight in self.stage.settle():
            self.ran[flight.what] += 1
            result = flight.result()
            self.ran["connected"] += getattr(result, "outcome", None) == "connected"
            is_gone = isinstance(result, Result) and result.reason == "deleted"
            if is_gone or getattr(result, "reason", None) == "unknown_authorization":
                self.given_up |= {realm for realm, tokens in self.book.order.items() if flight.hand & set(tokens)}
        self._find_born()

    def _find_born(self) -> None:
        """Note which connections a consent has made anew."""
        for customer in self.customers:
            if self.watch.row(customer) is None:
                realm_hash = self.fleet.lookup.realm_hash(Secret(customer.connected.realm_id))
                row = self.fleet.db.execute(
                    "SELECT id FROM qbo.connections WHERE realm_hash = %(hash)s", {"hash": realm_hash}
                ).one_or_none()
                if row is not None:
                    customer.connected = replace(customer.connected, id=row.id)

    def _forgive(self, tokens: Any, *, whatever: bool = False) -> None:
        """Forgive the loss of those of these tokens that are nowhere any more."""
        held: set[bytes] = set()
        for customer in self.customers:
            row = self.watch.row(customer)
            if row is not None and not (whatever and row.status == Status.DISCONNECTED):
                held |= self.watch.held(row)
            held |= self.watch.on_the_way()
        held |= self._to_be_revoked()
        self.book.forgiven |= {token for token in tokens if self.fleet.fingerprint(token) not in held}

    def _to_be_revoked(self) -> set[bytes]:
        rows = self.fleet.db.execute("SELECT * FROM qbo.revocations").all()
        keyring = self.stage.config.keyring()
        return {
            self.fleet.lookup.fingerprint(
                keyring.open(row.refresh_token, self.fleet.place(row.connection_id, grant_number=row.grant_number))
            )
            for row in rows
        }

    def _strange_blob(self, number: int, row: Any, *, from_other: bool) -> bytes | None:
        if from_other:
            other = self.watch.row(self.customers[1 - number])
            return None if other is None or other.refresh_token is None else bytes(other.refresh_token)
        if row.grant_number == 1:
            return None
        token = self.book.order[self.customers[number].connected.realm_id][0]
        return self.fleet.seal(row.id, token, grant_number=row.grant_number - 1)

    def _deploy(self, config: Config) -> None:
        self.stage.config = config
        self.fleet.keyring = config.keyring()

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
