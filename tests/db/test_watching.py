from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.attempts import FORCED, NEW_TOKEN, Attempts
from worker import policy, watching
from worker.attempt import Keys, Saved, Trigger
from worker.dispatch import Sweep, dispatch_due
from worker.refresh import refresh
from worker.store import fleet as fleets

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Run
    from tests.support.fleet import Fleet
    from worker.embedded import Servers
    from worker.refresh import Refresher
    from worker.runtime import Runtime

MINUTE = timedelta(minutes=1)
SECOND_WRITER = ["second_writer.seen"]


@pytest.fixture
def keys(refresher: Refresher) -> tuple[Keys, ...]:
    return tuple(Keys(app, tuple(s.secret_hash for s in mine)) for app, mine in refresher.secrets.items())


def stands_still(fleet: Fleet, keys: tuple[Keys, ...]) -> bool:
    watching.look(fleet.db, keys, sweep_every=MINUTE)
    return bool(fleet.db.execute("SELECT stalled_since IS NOT NULL AS it FROM qbo.apps").one().it)


def test_row_35_a_dead_beat_is_told_once_and_again_after_it_was_mended(fleet: Fleet, keys: tuple[Keys, ...]) -> None:
    (connected,) = fleet.connect()
    assert not stands_still(fleet, keys), "due, but not for long"
    fleet.let_pass(11 * MINUTE)
    assert stands_still(fleet, keys)
    assert stands_still(fleet, keys)
    assert fleet.events() == ["refreshes.stalled"]
    fleet.update(connected.id, "next_refresh_at = now() + interval '1 day'")
    assert not stands_still(fleet, keys)
    fleet.let_pass(timedelta(days=2))
    assert stands_still(fleet, keys)
    assert fleet.events() == ["refreshes.stalled"] * 2


class Looks:
    """The end of a process that comes after so many looks, each of which has its time."""

    def __init__(self, count: int) -> None:
        self.left = count

    def wait(self, seconds: float) -> bool:
        """Return whether that was the end."""
        assert seconds == 60
        self.left -= 1
        return self.left < 0


def test_row_35_a_day_without_beat_and_broker_is_told_by_whoever_still_runs(
    fleet: Fleet, start_worker: Callable[..., Runtime], session_servers: Servers, run: Run
) -> None:
    # Fails with a watch that asks the broker first, as a task would: seen.
    worker = start_worker()
    fleet.connect()
    fleet.db.execute("UPDATE qbo.apps SET swept_at = now()")
    fleet.let_pass(timedelta(days=1))
    looks: Any = Looks(3)
    worker.db.stopping = looks
    session_servers.stop_valkey()
    try:
        watching.start(worker.db, worker.keys, worker.escrow, pace=worker.refresher.pace, sweep_every=MINUTE).join(30)
        status, told, _ = run("status", "--check")
    finally:
        session_servers.start_valkey()
    assert looks.left == -1
    assert fleet.events() == ["refreshes.stalled"], "once in three looks"
    assert status == 1
    for said in (
        "Redis at REDIS_URL cannot be reached",
        "Due connections have not been refreshed",
        "the last sweep was 24 h ago",
    ):
        assert said in told, told


def test_row_35_a_backlog_that_is_swept_stands_still_only_after_two_hours(fleet: Fleet, keys: tuple[Keys, ...]) -> None:
    fleet.connect()
    for minutes, still in ((30, False), (60, False), (31, True)):
        fleet.let_pass(minutes * MINUTE)
        fleet.db.execute("UPDATE qbo.apps SET swept_at = now()")
        assert stands_still(fleet, keys) is still


def test_what_is_frozen_or_blocked_was_told_already(fleet: Fleet, keys: tuple[Keys, ...], refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    claim = Attempts(refresher).claimed(connected.id)
    (secret_hash,) = keys[0].secret_hashes
    refresher.store.block(claim, secret_hash=secret_hash, reason="invalid_client", at_once=True)
    fleet.let_pass(timedelta(days=1))
    assert not stands_still(fleet, keys)
    fleet.db.execute("DELETE FROM qbo.app_blocks")
    fleets.set_all_frozen(fleet.db, frozen=True, reason=None)
    assert not stands_still(fleet, keys)
    fleets.set_all_frozen(fleet.db, frozen=False, reason=None)
    assert stands_still(fleet, keys)


def test_another_reason_replaces_that_of_a_freeze_that_stands(fleet: Fleet) -> None:
    def reason() -> str | None:
        found: str | None = fleet.db.execute("SELECT frozen_reason FROM qbo.control").one().frozen_reason
        return found

    assert fleets.set_all_frozen(fleet.db, frozen=True, reason="an upgrade")
    assert fleets.set_all_frozen(fleet.db, frozen=True, reason="an upgrade that takes longer")
    assert reason() == "an upgrade that takes longer"
    assert not fleets.set_all_frozen(fleet.db, frozen=True, reason=None)
    assert not fleets.set_all_frozen(fleet.db, frozen=True, reason="an upgrade that takes longer")
    assert reason() == "an upgrade that takes longer"
    assert fleets.set_all_frozen(fleet.db, frozen=False, reason=None)
    assert reason() is None
    assert not fleets.set_all_frozen(fleet.db, frozen=False, reason=None)


def test_after_a_thaw_the_fleet_starts_slowly(fleet: Fleet, keys: tuple[Keys, ...]) -> None:
    # Fails without `ramp` in the sweep: seen, all forty go in the first minute.
    with fleet.db.transaction():
        fleet.connect(200)
    fleets.set_all_frozen(fleet.db, frozen=True, reason="an upgrade")
    fleets.set_all_frozen(fleet.db, frozen=False, reason=None)
    published: list[int] = []
    went = []
    for _ in range(5):
        sweep = Sweep(fleet.db, keys, 40, 40, MINUTE, policy.Pace(), 10 * MINUTE, lambda: 0, published.extend)
        went.append(dispatch_due(sweep).published)
        fleet.let_pass(MINUTE)
    assert went == [4, 8, 16, 32, 40]


def test_the_ramp_is_a_tenth_at_first_and_all_of_it_in_five_minutes() -> None:
    assert [policy.ramp(minutes * MINUTE) for minutes in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert policy.ramp(None) == policy.ramp(timedelta(days=4000)) == 1.0
    assert policy.ramp(timedelta(days=-1)) == 0.1


def test_a_token_in_the_row_that_we_did_not_write_is_reported_once(fleet: Fleet, refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    refresh(refresher, connected.id, trigger=Trigger.SWEEP)
    assert fleet.events(connected.id) == []
    ours = fleet.row(connected.id).last_refreshed_at.isoformat(timespec="seconds")
    theirs = NEW_TOKEN
    fleet.update(
        connected.id,
        "refresh_token = %(token)s, refresh_token_fingerprint = %(mark)s, token_version = token_version + 1",
        token=fleet.seal(connected.id, theirs),
        mark=fleet.fingerprint(theirs),
    )
    for _ in range(2):
        refresh(refresher, connected.id, trigger=Trigger.ADHOC, freshness=FORCED)
        fleet.update(connected.id, "not_before = NULL")
    assert fleet.events(connected.id) == SECOND_WRITER
    assert fleet.payloads(connected.id, *SECOND_WRITER) == [{"seen": "row", "we_refreshed_last_at": ours}]
    assert fleet.row(connected.id).second_writer_at is not None


def test_a_foreign_token_in_a_row_that_we_never_refreshed_has_no_moment_of_ours(
    fleet: Fleet, refresher: Refresher
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "known_fingerprint = %(mark)s", mark=fleet.fingerprint(NEW_TOKEN))
    refresh(refresher, connected.id, trigger=Trigger.SWEEP)
    assert fleet.payloads(connected.id, *SECOND_WRITER) == [{"seen": "row"}]


def test_our_own_saves_are_nobody_elses(fleet: Fleet, refresher: Refresher) -> None:
    one = Attempts(refresher)
    (connected,) = fleet.connect()
    assert one.save(one.claimed(connected.id)) is Saved.SAVED
    claim = one.claimed(connected.id, freshness=FORCED)
    assert not claim.is_foreign
    assert refresher.store.save_bare(claim, one.grant(claim, NEW_TOKEN + "x")) is Saved.SAVED
    assert not one.claimed(connected.id, freshness=FORCED).is_foreign
