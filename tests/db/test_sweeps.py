from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.attempts import Attempts
from worker.database import Database
from worker.dispatch import Sweep, dispatch_due
from worker.errors import ClientRejected, GrantRejected
from worker.policy import Pace
from worker.store import dispatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.fleet import Fleet
    from worker.refresh import Refresher
    from worker.settings import Settings

MINUTE = timedelta(minutes=1)


@pytest.fixture
def published() -> list[int]:
    return []


@pytest.fixture
def sweep(settings: Settings, published: list[int], refresher: Refresher) -> Iterator[Sweep]:
    from worker.attempt import Keys  # noqa: PLC0415  # of this fixture alone

    def publish(ids: Sequence[int]) -> None:
        published.extend(ids)

    db = Database(settings.database())
    keys = tuple(Keys(app, tuple(s.secret_hash for s in mine)) for app, mine in refresher.secrets.items())
    yield Sweep(db, keys, 100, 100, MINUTE, Pace(), 10 * MINUTE, lambda: 0, publish)
    db.close()


def ids(connected: Sequence[object]) -> list[int]:
    return [each.id for each in connected]  # type: ignore[attr-defined]  # Connected


def test_what_is_due_is_published_once_and_marked(fleet: Fleet, sweep: Sweep, published: list[int]) -> None:
    due = fleet.connect(5)
    later = fleet.connect(2)
    for each in later:
        fleet.update(each.id, "next_refresh_at = now() + interval '1 hour'")
    assert dispatch_due(sweep).published == 5
    fleet.let_pass(MINUTE)
    assert dispatch_due(sweep).published == 0
    assert sorted(published) == ids(due)


def test_two_dispatchers_at_once_mark_each_row_once(fleet: Fleet, sweep: Sweep, published: list[int]) -> None:
    # Fails without `queued_until` in `_MARK`: seen, each row is published four times.
    due = fleet.connect(60)
    together = Barrier(4, timeout=20)

    def dispatch(_: int) -> None:
        together.wait()
        # Without the period between sweeps the marks alone decide.
        dispatch_due(replace(sweep, every=timedelta(0)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(dispatch, range(4)))
    assert sorted(published) == ids(due)


def test_a_row_that_somebody_has_locked_is_passed_over(
    fleet: Fleet, sweep: Sweep, published: list[int], database_url: str
) -> None:
    # Fails without SKIP LOCKED in `_MARK`: seen, the sweep waits for whoever holds the row.
    locked, *others = fleet.connect(3)
    sweep.db.execute("SET lock_timeout = '2s'")
    with psycopg.connect(database_url) as somebody:
        somebody.execute("SELECT FROM qbo.connections WHERE id = %s FOR UPDATE", [locked.id])
        assert dispatch_due(sweep).published == 2
    assert sorted(published) == ids(others)


def test_a_second_beat_starts_nothing(fleet: Fleet, sweep: Sweep) -> None:
    fleet.connect()
    assert dispatch_due(sweep).skipped is None
    assert dispatch_due(sweep).skipped == "swept_already"
    fleet.let_pass(timedelta(seconds=55))
    assert dispatch_due(sweep).skipped is None, "a beat that is a little early does"


def test_a_sweep_starts_after_the_databases_clock_was_stepped_back(fleet: Fleet, sweep: Sweep) -> None:
    fleet.db.execute("UPDATE qbo.apps SET swept_at = now() + interval '5 hours'")
    assert dispatch_due(sweep).skipped is None


def test_marks_lapse_so_that_a_lost_message_is_published_again(
    fleet: Fleet, sweep: Sweep, published: list[int]
) -> None:
    (connected,) = fleet.connect()
    dispatch_due(sweep)
    fleet.let_pass(timedelta(minutes=9))
    dispatch_due(sweep)
    assert published == [connected.id]
    fleet.let_pass(timedelta(seconds=61))
    dispatch_due(sweep)
    assert published == [connected.id] * 2


def test_a_claim_clears_the_mark(fleet: Fleet, sweep: Sweep, refresher: Refresher) -> None:
    (connected,) = fleet.connect()
    dispatch_due(sweep)
    assert fleet.row(connected.id).queued_until is not None
    Attempts(refresher).claimed(connected.id)
    assert fleet.row(connected.id).queued_until is None


def test_the_most_overdue_go_first_and_at_most_the_rate(fleet: Fleet, sweep: Sweep, published: list[int]) -> None:
    connected = fleet.connect(6)
    for age, each in enumerate(connected):
        fleet.update(each.id, "next_refresh_at = now() - %(age)s::interval", age=timedelta(hours=age))
    assert dispatch_due(replace(sweep, per_sweep=2)).published == 2
    assert sorted(published) == ids(connected[4:])


def test_grants_that_die_soon_go_before_those_that_are_overdue(
    fleet: Fleet, sweep: Sweep, published: list[int]
) -> None:
    overdue, dying, sooner = fleet.connect(3)
    fleet.update(overdue.id, "next_refresh_at = now() - interval '3 days'")
    fleet.update(dying.id, "refresh_expires_at = now() + interval '5 days'")
    fleet.update(sooner.id, "refresh_expires_at = now() + interval '1 hour'")
    assert dispatch_due(replace(sweep, per_sweep=1)).published == 1
    assert published == [sooner.id]
    fleet.let_pass(MINUTE)
    dispatch_due(replace(sweep, per_sweep=1))
    assert published == [sooner.id, dying.id]


def test_a_fleet_larger_than_a_batch_is_published_whole(fleet: Fleet, sweep: Sweep, published: list[int]) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.connections (app_id, realm_id, realm_hash, next_refresh_at)"
        " SELECT app_id, realm_id, decode(lpad(to_hex(n), 32, '0'), 'hex'), next_refresh_at"
        " FROM qbo.connections, generate_series(1, 2499) n WHERE id = %(id)s",
        {"id": connected.id},
    )
    assert dispatch_due(replace(sweep, per_sweep=10_000)).published == 2500
    assert len(set(published)) == 2500


def test_rows_that_cannot_go_do_not_fill_the_rate(
    fleet: Fleet, sweep: Sweep, published: list[int], refresher: Refresher
) -> None:
    one = Attempts(refresher)
    frozen, dead, waiting, leased, keyless, *well = fleet.connect(7)
    for each in (frozen, dead, waiting, leased, keyless):
        fleet.update(each.id, "next_refresh_at = now() - interval '9 days', refresh_expires_at = now()")
    fleet.update(frozen.id, "frozen = true")
    fleet.update(dead.id, "status = 'needs_reauth', next_refresh_at = NULL")
    one.conclude(one.claimed(waiting.id), GrantRejected())
    one.claimed(leased.id)
    fleet.db.execute(
        "WITH other AS (INSERT INTO qbo.apps (environment, client_id) VALUES ('sandbox', 'without keys') RETURNING id)"
        " UPDATE qbo.connections SET app_id = other.id FROM other WHERE connections.id = %(id)s",
        {"id": keyless.id},
    )
    assert dispatch_due(replace(sweep, per_sweep=2)).published == 2
    assert sorted(published) == ids(well)


def test_a_blocked_app_publishes_one_probe_a_minute(
    fleet: Fleet, sweep: Sweep, published: list[int], refresher: Refresher
) -> None:
    one = Attempts(refresher)
    connected = fleet.connect(5)
    claim = one.claimed(connected[0].id)
    secret = refresher.secrets[claim.app_id][0]
    refresher.store.block(claim, secret_hash=secret.secret_hash, reason="invalid_client", at_once=True)
    one.conclude(claim, ClientRejected("invalid_client"))
    assert dispatch_due(sweep).published == 0
    fleet.let_pass(timedelta(seconds=61))
    assert dispatch_due(sweep).published == 1
    assert len(published) == 1


def test_a_throttled_app_publishes_nothing(fleet: Fleet, sweep: Sweep) -> None:
    fleet.connect(3)
    fleet.db.execute("UPDATE qbo.apps SET throttled_until = now() + interval '1 minute'")
    assert dispatch_due(sweep).published == 0
    fleet.let_pass(timedelta(seconds=61))
    assert dispatch_due(sweep).published == 3


def test_nothing_is_published_behind_a_queue_of_more_than_two_minutes(fleet: Fleet, sweep: Sweep) -> None:
    (connected,) = fleet.connect()
    full = replace(sweep, queue_length=lambda: 2 * sweep.per_minute + 1)
    assert dispatch_due(full).skipped == "queue_full"
    assert fleet.row(connected.id).queued_until is None


def test_nothing_is_published_while_everything_is_frozen(fleet: Fleet, sweep: Sweep) -> None:
    fleet.connect()
    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    assert dispatch_due(sweep).published == 0


def test_grants_that_die_soon_take_half_of_a_sweep_at_most(fleet: Fleet, sweep: Sweep, published: list[int]) -> None:
    # Fails with the whole rate for them: dying grants that always fail keep everybody else out.
    connected = fleet.connect(8)
    dying, others = connected[:4], connected[4:]
    for each in dying:
        fleet.update(each.id, "refresh_expires_at = now() + interval '1 hour'")
    for each in others:
        fleet.update(each.id, "next_refresh_at = now() - interval '1 hour'")
    assert dispatch_due(replace(sweep, per_sweep=4)).published == 4
    assert {*published[:2]} <= {*ids(dying)}
    assert {*published[2:]} <= {*ids(others)}


@pytest.mark.parametrize("urgent", [False, True])
def test_a_dispatcher_passes_over_what_another_is_marking_and_does_not_wait_for_it(
    fleet: Fleet, settings: Settings, *, urgent: bool
) -> None:
    # Fails without SKIP LOCKED: it waits for the other's commit.
    due = fleet.connect(10)
    fleet.update(None, "refresh_expires_at = now() + interval '1 hour'")
    other = Database(settings.database(), statement_s=2)

    def mark(db: Database, limit: int) -> list[int]:
        if urgent:
            return dispatch.mark_urgent(db, app_id=due[0].app_id, limit=limit, mark=MINUTE)
        return dispatch.mark_due(db, app_id=due[0].app_id, limit=limit, mark=MINUTE)[0]

    with fleet.db.transaction():
        first = mark(fleet.db, 5)
        second = mark(other, 10)
    other.close()
    assert (len(first), len(second)) == (5, 5)
    assert sorted(first + second) == ids(due)


def test_what_waits_for_a_key_that_is_back_may_go_at_once(fleet: Fleet) -> None:
    mended, missing, poisoned, refused = fleet.connect(4)
    for each in (mended, missing, poisoned, refused):
        fleet.update(each.id, "last_outcome = 'unreadable', not_before = now() + interval '1 hour'")
    fleet.update(missing.id, r"refresh_token = '\x010461776179' || decode(repeat('00', 60), 'hex')")  # the key "away"
    fleet.update(poisoned.id, "refresh_token = 'x'")
    fleet.update(refused.id, "last_outcome = 'suspect'")
    assert dispatch.let_readable_go(fleet.db, fleet.keyring.key_ids) == 1
    assert fleet.row(mended.id).not_before is None
    assert dispatch.let_readable_go(fleet.db, {"away"}) == 1
    assert all(fleet.row(each.id).wait > timedelta(minutes=59) for each in (poisoned, refused))


@pytest.mark.parametrize("moment", ["-infinity", "0044-03-15 BC"])
def test_a_due_time_that_no_program_can_read_is_in_nobodys_way(
    fleet: Fleet, sweep: Sweep, published: list[int], moment: str
) -> None:
    # Seen: all that had been marked with it were marked, and none was published, again and again.
    connected = fleet.connect(5)
    fleet.update(connected[0].id, f"next_refresh_at = '{moment}'")
    assert dispatch_due(sweep).published == 5
    assert sorted(published) == sorted(each.id for each in connected)
