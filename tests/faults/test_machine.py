"""Any order of what may happen to two connections, on PostgreSQL, Valkey and the simulator: DESIGN's promises hold.

A rule-based machine of Hypothesis: it looks for a sequence that breaks an invariant, and shortens it. `FULL=1` looks
longer, and elsewhere each time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import hypothesis
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from qbo_refresh.status import Status
from tests.support.attempts import FORCED
from tests.support.seams import Killed, Port, killed, with_seam
from worker.attempt import Trigger
from worker.importing.lines import Lines
from worker.importing.load import Importer, Wishes
from worker.refresh import Refresher, refresh
from worker.store import fleet as freezing

if TYPE_CHECKING:
    from tests.support.fleet import Connected, Fleet
    from worker.settings import Settings

LEASE, HOUR, DAY = timedelta(seconds=61), timedelta(hours=1), timedelta(hours=25)
# What Intuit answers once, and whether an answer with a new token is lost with it.
ANSWERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "503": ("unavailable", {}, False),
    "503 after rotating": ("unavailable", {"rotate": True}, True),
    "html after rotating": ("html", {}, True),
    "nothing": ("drop", {}, False),
    "nothing after rotating": ("drop", {"rotate": True}, True),
    "cut": ("cut", {"after_bytes": 40, "of": "body"}, True),
    "429": ("throttled", {}, False),
    "invalid_client": ("invalid_client", {}, False),
    "invalid_request": ("answer", {"status": 400, "error": "invalid_request"}, False),
    "a wrong invalid_grant": ("invalid_grant", {}, False),
}
# Where a worker may die without losing anything; between answer and escrow it may lose the token.
CRASHES: list[tuple[Port, str, str]] = [
    ("store", "claim", "after"),
    ("intuit", "refresh", "before"),
    ("intuit", "refresh", "after"),
    ("escrow", "put", "after"),
    ("store", "save", "before"),
    ("store", "save", "after"),
    ("store", "conclude", "before"),
    ("store", "conclude", "after"),
]
_START_ANEW = """
DELETE FROM qbo.external_ids; DELETE FROM qbo.outbox; DELETE FROM qbo.sync_holds; DELETE FROM qbo.candidates;
DELETE FROM qbo.refresh_attempts; DELETE FROM qbo.connections; DELETE FROM qbo.app_blocks;
UPDATE qbo.apps SET throttled_until = NULL, guard_tripped_at = NULL, guard_released_at = NULL, population_at = NULL;
UPDATE qbo.control SET frozen = false
"""


@dataclass(slots=True)
class Customer:
    """A connection, and what we may be excused for.

    Attributes:
        revoked: The customer ended the grant.
        lost: A new token went with an answer that never arrived, or died with its worker before the escrow.
    """

    connected: Connected
    revoked: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """What all examples share."""

    fleet: Fleet
    workers: tuple[Refresher, Refresher]
    settings: Settings
    valkey: redis.Redis

    def start_anew(self, policy: str) -> None:
        """Forget everything."""
        for statement in _START_ANEW.split(";"):
            self.fleet.db.execute(statement)
        self.valkey.flushall()
        self.fleet.simulator.reset()
        self.fleet.simulator.set_policy(policy)


numbers, workers = st.integers(0, 1), st.integers(0, 1)


class Lives(RuleBasedStateMachine):
    """Two connections, two workers, one provider."""

    world: World

    @initialize(policy=st.sampled_from(["strict", "grace", "daily", "reuse-revokes"]))
    def begin(self, policy: str) -> None:
        """Start with two connections that are due."""
        self.world.start_anew(policy)
        self.fleet = self.world.fleet
        self.customers = [Customer(each) for each in self.fleet.connect(2)]

    @rule(number=numbers, worker=workers)
    def goes_well(self, number: int, worker: int) -> None:
        """Refresh, if it may go."""
        self._attempt(self.world.workers[worker], self.customers[number])

    @rule(number=numbers, worker=workers, kind=st.sampled_from(sorted(ANSWERS)))
    def is_answered(self, number: int, worker: int, kind: str) -> None:
        """Refresh, and Intuit answers like this once."""
        customer = self.customers[number]
        name, options, loses = ANSWERS[kind]
        before = self.fleet.state(customer.connected).rotations
        fault = self.fleet.simulator.fault(name, count=1, realm_ids=[customer.connected.realm_id], **options)
        self._attempt(self.world.workers[worker], customer)
        with contextlib.suppress(Exception):
            self.fleet.simulator.clear_fault(fault)
        customer.lost |= loses and self.fleet.state(customer.connected).rotations > before

    @rule(number=numbers, worker=workers, point=st.sampled_from(CRASHES))
    def dies(self, number: int, worker: int, point: tuple[Port, str, str]) -> None:
        """Kill the worker at a seam."""
        customer = self.customers[number]
        port, method, when = point
        before = self.fleet.state(customer.connected).rotations
        dying = (
            with_seam(self.world.workers[worker], port, method, before=killed)
            if when == "before"
            else with_seam(self.world.workers[worker], port, method, after=killed)
        )
        with contextlib.suppress(Killed):
            self._attempt(dying, customer)
        rotated = self.fleet.state(customer.connected).rotations > before
        customer.lost |= point == ("intuit", "refresh", "after") and rotated

    @rule(number=numbers, port=st.sampled_from(["save", "conclude", "refresh"]))
    def is_frozen_past_its_lease(self, number: int, port: str) -> None:
        """Freeze the worker before it writes, or before it sends; another takes over meanwhile."""
        customer = self.customers[number]

        def meanwhile() -> None:
            self.fleet.let_pass(LEASE)
            self._attempt(self.world.workers[1], customer)

        # A freeze after the last check and before the first byte is not promised; after the answer it is.
        if port == "refresh":
            frozen = with_seam(self.world.workers[0], "intuit", "refresh", after=meanwhile)
        else:
            frozen = with_seam(self.world.workers[0], "store", port, before=meanwhile)
        before = self.fleet.state(customer.connected)
        self._attempt(frozen, customer)
        after = self.fleet.state(customer.connected)
        # At a provider that punishes reuse the grant is gone; DESIGN, "Not promised".
        customer.lost |= before.alive and not after.alive

    @rule(number=numbers, when=st.sampled_from(["before", "after"]))
    def is_asked_for_meanwhile(self, number: int, when: str) -> None:
        """Ask another worker for the same connection while one is about to send, or has just been answered."""
        customer = self.customers[number]

        def ask() -> None:
            self._attempt(self.world.workers[1], customer)

        seams: dict[str, Any] = {when: ask}
        self._attempt(with_seam(self.world.workers[0], "intuit", "refresh", **seams), customer)

    @rule(time=st.sampled_from([LEASE, HOUR, DAY]))
    def time_passes(self, time: timedelta) -> None:
        """Let leases and pauses run out, here and at Intuit."""
        self.fleet.let_pass(time, at_intuit=True)

    @rule(number=numbers)
    def is_revoked(self, number: int) -> None:
        """End the grant, as a customer does."""
        self.fleet.simulator.revoke(self.customers[number].connected.realm_id)
        self.customers[number].revoked = True

    @rule(number=numbers, age=st.sampled_from([None, HOUR, timedelta(days=3)]))
    def is_imported(self, number: int, age: timedelta | None) -> None:
        """Import the token that Intuit has as current, as an old system would know it, with a time or without."""
        customer = self.customers[number]
        line = {
            "realm_id": customer.connected.realm_id,
            "refresh_token": self.fleet.state(customer.connected).refresh_token,
        }
        if age is not None:
            line["token_obtained_at"] = (datetime.now(UTC) - age).isoformat()  # noqa: TID251  # as a file would say it
        settings = self.world.settings
        Importer(
            self.fleet.db, settings.keyring(), settings.lookup(), settings.apps(), Wishes(update=True), _ignore
        ).run(Lines(io.BytesIO(json.dumps(line).encode())))

    @rule(number=st.none() | numbers, frozen=st.booleans())
    def rests(self, number: int | None, frozen: bool) -> None:  # noqa: FBT001  # drawn by Hypothesis
        """Freeze or thaw one, or all."""
        if number is None:
            freezing.set_all_frozen(self.fleet.db, frozen=frozen, reason=None)
        else:
            freezing.set_frozen(
                self.fleet.db, freezing.Choice(connection_id=self.customers[number].connected.id), frozen=frozen
            )

    @rule()
    def redis_is_emptied(self) -> None:
        """Flush Valkey: with a crash before it, a second fault, which may cost the token that only it had."""
        held = {each.connected.id: self._durable(each) for each in self.customers}
        self.world.valkey.flushall()
        for customer in self.customers:
            customer.lost |= held[customer.connected.id] - self._durable(customer) != set()

    # Here belong, when they are there: reconnecting and disconnecting in mid-refresh, and `keys rotate`.

    @invariant()
    def no_two_calls_with_one_token_at_once(self) -> None:
        """Promise 3."""
        assert self.fleet.simulator.check().overlapping == 0

    @invariant()
    def nobody_is_told_to_reconnect_whose_grant_lives(self) -> None:
        """Promise 1."""
        for customer in self.customers:
            if not (customer.revoked or customer.lost):
                assert self.fleet.row(customer.connected.id).status != Status.NEEDS_REAUTH

    @invariant()
    def what_reached_us_is_somewhere(self) -> None:
        """Promise 2."""
        for customer in self.customers:
            if not (customer.revoked or customer.lost):
                live = self.fleet.fingerprint(self.fleet.state(customer.connected).refresh_token)
                assert live in self._durable(customer)

    @invariant()
    def a_row_at_rest_holds_what_intuit_has_as_current(self) -> None:
        """A late save has not put an older token over a newer one."""
        for customer in self.customers:
            row = self.fleet.row(customer.connected.id)
            untried = any(each.tried_at is None for each in self.fleet.candidates(customer.connected.id))
            rests = row.lease_id is None and not row.in_doubt and row.status == Status.ACTIVE and not untried
            if rests and not (customer.revoked or customer.lost):
                live = self.fleet.state(customer.connected).refresh_token
                assert row.refresh_token_fingerprint == self.fleet.fingerprint(live)

    def teardown(self) -> None:
        """Let all faults stop and some hours pass: everybody is as Intuit knows them, and syncs run."""
        if not hasattr(self, "customers"):
            return
        self.fleet.simulator.clear_faults()
        freezing.set_all_frozen(self.fleet.db, frozen=False, reason=None)
        self.fleet.update(None, "frozen = false")
        for _ in range(4):
            self.fleet.let_pass(HOUR + LEASE, at_intuit=True)
            for customer in self.customers:
                self._attempt(self.world.workers[0], customer)
        for customer in self.customers:
            row = self.fleet.row(customer.connected.id)
            if not (customer.revoked or customer.lost):
                assert (row.status, self.fleet.holds(customer.connected.id)) == (Status.ACTIVE, set())
                assert self.fleet.holds_the_live_token(customer.connected)
            elif customer.revoked:
                assert row.status != Status.ACTIVE
        assert self.fleet.simulator.check().overlapping == 0

    def _attempt(self, by: Refresher, customer: Customer) -> None:
        refresh(by, customer.connected.id, trigger=Trigger.ADHOC, freshness=FORCED)

    def _durable(self, customer: Customer) -> set[bytes]:
        """Return the fingerprints of all tokens of a connection that we could still present."""
        row = self.fleet.row(customer.connected.id)
        found = {row.refresh_token_fingerprint, row.previous_refresh_token_fingerprint}
        found |= {each.fingerprint for each in self.fleet.candidates(customer.connected.id)}
        escrow = self.world.workers[0].escrow
        for base_version in range(1, row.token_version + 1, 9):
            kept = escrow.find(customer.connected.id, grant_number=1, base_version=base_version + 1)
            found |= {each.fingerprint for each in kept or ()}
        return found


def _ignore(step: str, *, bytes_read: int, lines_read: int) -> None:
    """Show no progress."""


def test_whatever_the_order_of_faults_the_promises_hold(
    fleet: Fleet,
    refresher: Refresher,
    second_refresher: Refresher,
    settings: Settings,
    redis_url: str,
) -> None:
    with redis.Redis.from_url(redis_url) as valkey:

        class Here(Lives):
            world = World(fleet, (refresher, second_refresher), settings, valkey)

        full = bool(os.environ.get("FULL"))
        chosen = hypothesis.settings(
            max_examples=100 if full else 16,
            stateful_step_count=30 if full else 16,
            deadline=None,
            derandomize=not full,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        run_state_machine_as_test(Here, settings=chosen)
