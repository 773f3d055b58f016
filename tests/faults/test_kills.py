"""Row 5 for attempts that end otherwise: a process is killed with -9 after each thing that it asks, and before all.

PostgreSQL's answers are there and unread when it dies, so that "after COMMIT" is before its acknowledgement is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

import pytest

from qbo_refresh.status import Outcome
from tests.support.attempts import Attempts
from tests.support.mortals import Life, Mortals
from worker.attempt import Source, Trigger
from worker.dispatch import Sweep, dispatch_due
from worker.ending import disconnect, revoke_due
from worker.exchange import exchange
from worker.refresh import Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.consents import Consents
    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

LEASE, CONFIRMED = timedelta(seconds=61), timedelta(minutes=16)
# An attempt in doubt that could write so pauses for a minute, at most doubled by its jitter.
DOUBTED = timedelta(seconds=121)
VERDICT = ["connection.needs_reauth", "sync.paused"]
# Which holds stand at rest is said by the status alone.
HOLDS = {"active": set(), "suspect": {"suspect"}, "needs_reauth": {"reauth"}, "disconnected": {"disconnected"}}


@pytest.fixture(scope="module")
def mortals() -> Iterator[Mortals]:
    made = Mortals()
    yield made
    made.close()


class Numbered(Protocol):
    """A connection, or a consent."""

    @property
    def id(self) -> int:
        """Return our id of it."""


N = TypeVar("N", bound=Numbered)


@dataclass(frozen=True, slots=True)
class Asked:
    """A consent of a test: its authorization."""

    id: int
    realm_id: str
    connected: Connected


@dataclass(frozen=True, slots=True)
class Kills:
    """Lets a piece of work die at each of its moments, and another worker sweep up."""

    mortals: Mortals
    fleet: Fleet
    variables: dict[str, str]
    second: Runtime

    def each(self, arrange: Callable[[], N], work: str = "refresh", *, through: set[str]) -> Iterator[tuple[N, Life]]:
        """Arrange and kill, for one moment more each time, until the work is done before the kill; yield each end.

        Args:
            arrange: Returns what the work is about.
            work: One of `mortals`.
            through: Calls that it must have made, or it was another work than meant.
        """
        moment, killed = 0, True
        while killed:
            self._begin_anew()
            made = arrange()
            life = self.mortals.live(self.variables, work, made.id, moment)
            self.fleet.simulator.clear_faults()
            yield made, life
            moment, killed = moment + 1, life.killed
        assert through <= set(life.calls), life.calls
        assert moment == len(life.calls) + 2, "each moment once"

    def _begin_anew(self) -> None:
        db = self.fleet.db
        self.fleet.update(None, "frozen = true")
        db.execute("DELETE FROM qbo.outbox")
        db.execute("DELETE FROM qbo.app_blocks")
        # The mass guard is not what this is about: a suspect each minute is nothing in a fleet of this size.
        db.execute("UPDATE qbo.apps SET population = 100000, population_at = now()")

    def sweep(self, *, after: timedelta = LEASE) -> list[Result]:
        """Let the dead one's lease pass and a sweep go: what it finds due is refreshed, what was left is settled."""
        self.fleet.let_pass(after)
        here, due, now = self.second, list[int](), timedelta(0)
        dispatch_due(Sweep(here.db, here.keys, 100, 100, now, here.refresher.pace, LEASE, lambda: 0, due.extend))
        results = [refresh(here.refresher, each, trigger=Trigger.SWEEP) for each in due]
        for left in here.ender.store.unfinished():
            exchange(here.exchanger, left)
        revoke_due(here.ender)
        return results

    def assert_at_rest(self, connected: Connected, status: str, events: list[str], life: Life) -> None:
        """Check status, holds and events, which must say the same."""
        row = self.fleet.row(connected.id)
        assert (row.status, row.lease_id) == (status, None), life
        assert not row.in_doubt or status == "suspect", "a doubt that a refusal has not cleared"
        assert self.fleet.holds(connected.id) == HOLDS[status], life
        assert self.fleet.events(connected.id) == events, life
        assert status == "suspect" or all(each.tried_at for each in self.fleet.candidates(connected.id)), life


@pytest.fixture
def kills(mortals: Mortals, fleet: Fleet, environment: dict[str, str], start_worker: Callable[..., Runtime]) -> Kills:
    return Kills(mortals, fleet, environment, start_worker())


def revoked(fleet: Fleet) -> Connected:
    (connected,) = fleet.connect()
    fleet.simulator.revoke(connected.realm_id)
    return connected


def assert_live_unless_exposed(kills: Kills, connected: Connected, life: Life, events: list[str] | None = None) -> None:
    """One sweep after the lease: active with the live token. What was lost with the only copy is suspect, and why."""
    if life.was_exposed and kills.fleet.row(connected.id).status != "active":
        assert kills.fleet.row(connected.id).last_reason == "answer_lost", life
        assert "connection.needs_reauth" not in kills.fleet.events(connected.id), life
    else:
        kills.assert_at_rest(connected, "active", events or [], life)
        assert kills.fleet.holds_the_live_token(connected), life


def test_row_5_killed_at_each_moment_of_a_success(kills: Kills, fleet: Fleet) -> None:
    through = {"claims.claim", "intuit.refresh", "escrow.put", "outcomes.save"}
    for connected, life in kills.each(lambda: fleet.connect()[0], through=through):
        kills.sweep()
        assert_live_unless_exposed(kills, connected, life)


def test_row_5_killed_at_each_moment_of_a_first_refusal_that_was_true(kills: Kills, fleet: Fleet) -> None:
    through = {"intuit.refresh", "verdicts._lock_app", "events.hold", "COMMIT"}
    for connected, life in kills.each(lambda: revoked(fleet), through=through):
        kills.sweep()
        kills.assert_at_rest(connected, "suspect", [], life)
        fleet.witness()
        kills.sweep(after=CONFIRMED)
        kills.assert_at_rest(connected, "needs_reauth", VERDICT, life)


def test_row_5_killed_at_each_moment_of_a_first_refusal_that_was_intuits_mistake(kills: Kills, fleet: Fleet) -> None:
    def arrange() -> Connected:
        (connected,) = fleet.connect()
        fleet.simulator.fault("invalid_grant", realm_ids=connected.realm_id, count=1)
        return connected

    for connected, life in kills.each(arrange, through={"intuit.refresh", "COMMIT"}):
        kills.sweep(after=CONFIRMED)
        kills.assert_at_rest(connected, "active", [], life)
        assert fleet.holds_the_live_token(connected), life


def test_row_5_killed_at_each_moment_of_a_verdict_and_of_the_question_about_the_previous_token(
    kills: Kills, fleet: Fleet
) -> None:
    """It comes once; and its event and its holds with it or not at all. Over the dead one's lease it is asked again."""

    def arrange() -> Connected:
        (connected,) = fleet.connect()
        assert kills.sweep()[-1].outcome is Outcome.REFRESHED, "from now on there is a previous token"
        fleet.simulator.revoke(connected.realm_id)
        fleet.update(connected.id, "next_refresh_at = now()")
        assert kills.sweep()[-1].outcome is Outcome.SUSPECT
        fleet.witness()
        fleet.let_pass(CONFIRMED)
        return connected

    through = {"verdicts.evidence", "candidates.add_candidate", "candidates.refuse", "events.emit", "events.lift"}
    for connected, life in kills.each(arrange, through=through | {"COMMIT"}):
        row = fleet.row(connected.id)
        assert (row.status == "needs_reauth") == ("connection.needs_reauth" in fleet.events(connected.id)), life
        assert fleet.holds(connected.id) == HOLDS[row.status], life
        kills.sweep()
        if fleet.row(connected.id).status == "suspect":
            kills.sweep(after=CONFIRMED)
        kills.assert_at_rest(connected, "needs_reauth", VERDICT, life)


@pytest.mark.parametrize(
    ("fault", "policy"),
    [({"kind": "unavailable"}, "strict"), ({"kind": "drop"}, "strict"), ({"kind": "html"}, "grace")],
    ids=["503", "no answer", "a page after the rotation"],
)
def test_row_5_killed_at_each_moment_of_an_attempt_without_a_usable_answer(
    kills: Kills, fleet: Fleet, fault: dict[str, str], policy: str
) -> None:
    fleet.simulator.set_policy(policy)

    def arrange() -> Connected:
        (connected,) = fleet.connect()
        fleet.simulator.fault(**fault, realm_ids=connected.realm_id, count=1)
        return connected

    for connected, life in kills.each(arrange, through={"intuit.refresh", "outcomes._conclude", "COMMIT"}):
        kills.sweep(after=DOUBTED if "COMMIT" in life.calls else LEASE)
        kills.assert_at_rest(connected, "active", [], life)
        assert fleet.holds_the_live_token(connected), life


def test_row_5_killed_at_each_moment_of_a_broken_answer_that_holds_the_live_token(kills: Kills, fleet: Fleet) -> None:
    def arrange() -> Connected:
        (connected,) = fleet.connect()
        fleet.simulator.fault("override", remove=["access_token"], realm_ids=connected.realm_id, count=1)
        return connected

    for connected, life in kills.each(arrange, through={"escrow.put", "candidates.keep", "COMMIT"}):
        kills.sweep(after=DOUBTED if life.calls.count("COMMIT") > 1 else LEASE)
        assert_live_unless_exposed(kills, connected, life)


def test_row_5_killed_at_each_moment_of_a_refused_client_secret_and_the_previous_one(
    kills: Kills, fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    both = {
        "INTUIT_CLIENT_SECRET": "not yet valid",
        "INTUIT_CLIENT_SECRET_PREVIOUS": fleet.simulator.client_secret,
    }
    kills = Kills(kills.mortals, fleet, kills.variables | both, start_worker(**both))
    through = {"apps.block", "escrow.put", "outcomes.save"}
    for connected, life in kills.each(lambda: fleet.connect()[0], through=through):
        kills.sweep()
        refused = life.was_exposed and life.calls.count("intuit.refresh") == 1
        if refused:  # it was the refusal that it died with: no token was in it
            kills.assert_at_rest(connected, "active", [], life)
        assert_live_unless_exposed(kills, connected, life)
        assert fleet.events() == ["app.blocked"], life


@pytest.mark.parametrize("live", [True, False], ids=["live", "dead"])
def test_row_5_killed_at_each_moment_of_an_attempt_that_presents_a_candidate_first(
    kills: Kills, fleet: Fleet, *, live: bool
) -> None:
    def arrange() -> Connected:
        (connected,) = fleet.connect()
        token = "RT1-refused-by-everybody"
        if live:
            token, spent = connected.refresh_token, "RT1-spent"
            fleet.update(
                connected.id,
                "refresh_token = %(blob)s, refresh_token_fingerprint = %(print)s, token_version = token_version + 1",
                blob=fleet.seal(connected.id, spent),
                print=fleet.fingerprint(spent),
            )
        one = Attempts(kills.second.refresher)
        one.keep(one.claimed(connected.id), token, Source.LATE_SAVE)
        if not live:  # its second refusal, after which the row's token is presented
            fleet.db.execute("UPDATE qbo.candidates SET tried_at = now()")
            fleet.let_pass(CONFIRMED)
        fleet.let_pass(LEASE)
        fleet.update(connected.id, "lease_id = NULL, leased_until = NULL")
        return connected

    through = {"candidates.unsettled", "escrow.put"} | (set() if live else {"candidates.refuse"})
    for connected, life in kills.each(arrange, through=through):
        kills.sweep()
        assert_live_unless_exposed(kills, connected, life)


@pytest.mark.parametrize("first_connection", [False, True])
def test_row_5_killed_at_each_moment_of_an_exchange(
    kills: Kills, fleet: Fleet, consents: Consents, *, first_connection: bool
) -> None:
    """A code is presented once. What reached the escrow is saved; without it the person is asked again."""

    def arrange() -> Asked:
        (connected,) = fleet.connect()
        name = f"external:new-{connected.id}" if first_connection else connected.id
        brought = consents.consent(name, None if first_connection else connected.realm_id)
        return Asked(consents.accept(brought), brought.realm_id, connected)

    through = {"intuit.exchange", "escrow.put", "installing.install"}
    presented = 0
    for asked, life in kills.each(arrange, "exchange", through=through):
        kills.sweep()
        lost = "COMMIT" in life.calls and "escrow.put" not in life.calls
        calls = [call for call in fleet.simulator.journal() if call.grant_type == "authorization_code"]
        assert len(calls) - presented == (0 if lost and "intuit.exchange" not in life.calls else 1), life
        presented = len(calls)
        found = kills.second.ender.store.standing(asked.id)
        assert (found.outcome, found.reason) == (("lost", "answer_lost") if lost else ("connected", None)), life
        if lost:
            assert fleet.events() == [], life
            assert fleet.row(asked.connected.id).grant_number == 1, "the old one stands"
        else:
            assert found.connection_id is not None
            assert fleet.token(found.connection_id) == fleet.simulator.state(asked.realm_id).refresh_token, life
            assert fleet.holds(found.connection_id) == set(), life
            told = fleet.events(found.connection_id)
            assert len(told) == len(set(told)), life


def test_row_5_killed_at_each_moment_of_a_disconnect(kills: Kills, fleet: Fleet) -> None:
    """Its task is delivered again, as the message of a killed worker is; else the sweep finishes what had begun."""
    through = {"COMMIT", "revocations.claim", "intuit.revoke", "revocations.done"}
    for connected, life in kills.each(lambda: fleet.connect()[0], "disconnect", through=through):
        begun = fleet.row(connected.id).status == "disconnected"
        assert begun == ("COMMIT" in life.calls), life
        if not begun:
            disconnect(kills.second.ender, connected.id)
        kills.sweep()
        kills.assert_at_rest(connected, "disconnected", ["connection.disconnected", "sync.paused"], life)
        assert not fleet.state(connected).alive, life
        assert fleet.db.execute("SELECT count(*) AS n FROM qbo.revocations").one().n == 0, life


def test_row_5_killed_at_each_moment_of_a_recovery_by_the_second_chance(kills: Kills, fleet: Fleet) -> None:
    def arrange() -> Connected:
        (connected,) = fleet.connect()
        fault = fleet.simulator.fault("invalid_grant", realm_ids=connected.realm_id)
        assert [result.outcome for result in kills.sweep()] == [Outcome.SUSPECT]
        fleet.witness()
        assert [result.outcome for result in kills.sweep(after=CONFIRMED)] == [Outcome.NEEDS_REAUTH]
        fleet.simulator.clear_fault(fault)
        fleet.let_pass(timedelta(hours=3, minutes=1))
        return connected

    recovered = [*VERDICT, "connection.recovered", "sync.resumed"]
    for connected, life in kills.each(arrange, through={"events.emit", "events.lift", "escrow.put", "COMMIT"}):
        told = fleet.events(connected.id)
        assert told in (VERDICT, recovered), life
        kills.sweep()
        if life.was_exposed:  # its verdict stands: the only copy of the live token is gone with that process
            kills.assert_at_rest(connected, "needs_reauth", VERDICT, life)
        else:
            kills.assert_at_rest(connected, "active", recovered, life)
            assert fleet.holds_the_live_token(connected), life
