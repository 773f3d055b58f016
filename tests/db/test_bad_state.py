"""What a hand, a restore or a stepped clock leaves behind: recognised, called by its name, never a verdict."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support.attempts import FORCED, Attempts
from worker import doctor
from worker.attempt import Trigger
from worker.dispatch import Sweep, dispatch_due
from worker.doctor import State
from worker.doctor.patient import Wrong
from worker.doctor.servers import compared
from worker.errors import GrantRejected
from worker.policy import Pace
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime
    from worker.settings import Settings

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def sweep(start_worker: Callable[..., Runtime]) -> Callable[[], list[int]]:
    here = start_worker()

    def swept() -> list[int]:
        published: list[int] = []
        dispatch_due(
            Sweep(here.db, here.keys, 100, 100, timedelta(0), Pace(), 10 * MINUTE, lambda: 0, published.extend)
        )
        return published

    return swept


def state(settings: Settings, name: str) -> doctor.Check:
    return {check.name: check for check in doctor.examine(settings, offline=True)}[name]


COMMANDS = [
    ("status",),
    ("status", "--check"),
    ("status", "--json"),
    ("doctor", "--offline"),
    ("dry-run",),
    ("explain", "{id}"),
    ("guard",),
    ("guard", "release", "--reason", "x"),
    ("app",),
    ("list",),
    ("refresh", "{id}"),
    ("freeze", "--all"),
    ("thaw", "--all"),
    ("freeze", "{id}"),
    ("adopt-database",),
    ("keys", "rotate"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_control_row_every_command_says_something_and_none_breaks(
    run: Run, fleet: Fleet, command: tuple[str, ...]
) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("DELETE FROM qbo.control")
    status, out, err = run(*(word.format(id=connected.id) for word in command))
    assert status in {0, 1, 2, 130}
    assert out + err
    assert "Traceback" not in out + err
    assert fleet.row(connected.id).lease_id is None


def test_a_missing_control_row_is_named_and_adopting_mends_it(
    run: Run, fleet: Fleet, one: Attempts, sweep: Callable[[], list[int]], settings: Settings
) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("DELETE FROM qbo.control")
    assert state(settings, "control").state is State.WRONG
    assert state(settings, "same database").state is State.SKIPPED
    status, out, _ = run("status", "--check")
    assert status == 1
    assert "The row of the table control is missing: nothing is sent." in out
    status, _, err = run("freeze", "--all")
    assert (status, "control is missing" in err) == (2, True)
    assert sweep() == []
    assert one.claim(connected.id, freshness=FORCED) is None
    assert "control is missing" in run("explain", str(connected.id))[1]
    status, out, _ = run("adopt-database", "--yes")
    assert (status, "no control row" in out, "it is not frozen now" in out) == (0, True, True)
    assert one.claim(connected.id, freshness=FORCED) is None, "quiet for one lease"
    fleet.let_pass(timedelta(seconds=61))
    assert sweep() == [connected.id]
    assert fleet.statuses([connected]) == {"active": 1}


def test_a_lease_in_the_far_future_is_named_and_ends(
    run: Run, fleet: Fleet, one: Attempts, sweep: Callable[[], list[int]], settings: Settings
) -> None:
    # Fails without `shorten_impossible_leases` in `dispatch_due`: seen, the connection is never published again.
    connected, other = fleet.connect(2)
    claim = one.claimed(connected.id)
    fleet.update(connected.id, "leased_until = '2090-01-01'")
    check = state(settings, "leases")
    assert check.state is State.WRONG
    assert f"connections {connected.id}" in check.text
    status, out, _ = run("status", "--check")
    assert (status, "1 leases end later than any can" in out) == (1, True)
    assert "under a lease that ends later than any can" in run("dry-run")[1]
    assert sweep() == [other.id]
    fleet.let_pass(HOUR + MINUTE)
    fleet.update(connected.id, "leased_until = '2090-01-01'")
    assert one.claim(connected.id, freshness=FORCED) is None
    assert connected.id not in sweep()
    assert fleet.row(connected.id).is_leased, "whoever may hold it since the clock was stepped has all of his lease"
    assert state(settings, "leases").state is State.OK
    fleet.let_pass(HOUR + MINUTE)
    assert connected.id in sweep()
    taken = one.claimed(connected.id)
    assert taken.standing.in_doubt
    assert taken.lease_id != claim.lease_id
    assert fleet.outcomes(connected.id) == [("abandoned", None)]


def test_a_lease_that_a_stepped_clock_made_long_is_not_taken_from_its_holder(
    fleet: Fleet, one: Attempts, other: Attempts, sweep: Callable[[], list[int]]
) -> None:
    # Fails if a lease that is too long counts as over (`OR leased_until > now() + 1 h` in `_CLAIM`): seen.
    (connected,) = fleet.connect()
    fleet.update(connected.id, "next_refresh_at = now() - interval '5 hours'")
    one.claimed(connected.id)
    # PostgreSQL's clock is stepped back by three hours: what it has just written lies in the future.
    fleet.let_pass(timedelta(hours=-3))
    fleet.update(connected.id, "next_refresh_at = next_refresh_at - interval '3 hours'")
    assert other.claim(connected.id) is None
    assert connected.id not in sweep()
    assert other.claim(connected.id) is None
    left = fleet.db.execute("SELECT leased_until - now() AS left FROM qbo.connections").one().left
    assert timedelta(minutes=59) < left <= timedelta(hours=1), "from when it was noticed, longer than any can be held"


def test_copies_in_the_escrow_that_do_not_open_make_no_verdict(
    run: Run, fleet: Fleet, one: Attempts, redis_url: str, settings: Settings
) -> None:
    (connected,) = fleet.connect()
    one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.witness()
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(f"qbo:escrow:{connected.id}:1:1", "rubbish", json.dumps(["a", "b"]))
        client.set("qbo:escrow:x", "not of ours")
        client.set(f"qbo:escrow:{connected.id}:1:9", "not a list")
    check = state(settings, "escrow")
    assert check.state is State.WRONG
    assert "4 of 4 sampled copies in the escrow do not open" in check.text
    fleet.let_pass(timedelta(minutes=16))
    assert refresh(one.by, connected.id, trigger=Trigger.SWEEP).outcome == "refreshed"
    assert run("keys", "rotate")[0] == 0


def test_a_copy_that_was_sealed_with_a_lost_key_is_named(
    fleet: Fleet, one: Attempts, settings: Settings, redis_url: str
) -> None:
    (connected,) = fleet.connect()
    one.by.escrow.put(one.received(one.claimed(connected.id)))
    assert state(settings, "escrow").text == "1 sampled copies in Redis open"
    with redis.Redis.from_url(redis_url) as client:
        client.rename(f"qbo:escrow:{connected.id}:1:1", f"qbo:escrow:{connected.id}:2:1")
    assert "1 of 1 sampled copies in the escrow do not open" in state(settings, "escrow").text


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ({"PostgreSQL": HOUR, "Intuit": HOUR}, "3600 s ahead: set this machine's clock right"),
        ({"PostgreSQL": -HOUR, "Intuit": timedelta(0)}, "3600 s behind: set the clock of PostgreSQL right"),
        ({"PostgreSQL": HOUR}, "set this machine's clock, or PostgreSQL's, right"),
    ],
)
def test_a_clock_that_is_an_hour_off_is_named(differences: dict[str, timedelta], said: str) -> None:
    with pytest.raises(Wrong, match="verdicts do not depend on it") as wrong:
        compared(differences)
    assert said in str(wrong.value)


def test_a_clock_that_is_a_little_off_is_nobodys_fault() -> None:
    assert "nothing depends on that" in compared({"PostgreSQL": MINUTE})
    assert compared({"PostgreSQL": timedelta(seconds=1)}) == "within 5 s of each other"
