"""Rows 25 and 26: a database that was restored, failed over or copied. On PostgreSQL servers of their own."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from qbo_refresh.status import Outcome
from tests.conftest import migrate, settings_of
from tests.support import roles
from tests.support.attempts import FORCED
from tests.support.fleet import Fleet
from worker import embedded, runtime
from worker.attempt import Keys, Trigger
from worker.database import Database
from worker.dispatch import Sweep, dispatch_due
from worker.embedded.processes import server_account
from worker.policy import Pace
from worker.refresh import Refresher, Result, refresh
from worker.store import control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intuit_simulator import StartedSimulator
    from tests.support.fleet import Connected
    from worker.embedded import Servers
    from worker.runtime import Runtime

LEASE = timedelta(seconds=60)
MINUTE = timedelta(minutes=1)
CONFIRMED = timedelta(minutes=16)


@pytest.fixture
def own_servers() -> Iterator[Servers]:
    """Give a migrated PostgreSQL that may be stopped, restored and copied."""
    with embedded.start() as servers:
        migrate(servers.database_url)
        roles.make(servers.database_url)
        yield servers


@pytest.fixture
def own(own_servers: Servers, environment: dict[str, str], simulator: StartedSimulator) -> Iterator[Fleet]:
    """Give a fleet in it."""
    config = settings_of(environment | {"DATABASE_URL": own_servers.database_url})
    db = Database(config.database())
    yield Fleet(db, config, simulator)
    db.close()


@pytest.fixture
def worker(own: Fleet, own_servers: Servers, start_worker: Callable[..., Runtime]) -> Runtime:
    """Give a worker on it; a restored database meets workers that were running before."""
    assert own
    return start_worker(DATABASE_URL=as_worker(own_servers))


def as_worker(servers: Servers) -> str:
    return roles.as_user(servers.database_url, roles.WORKER)


def sweep_of(worker: Runtime, published: list[int]) -> Sweep:
    keys = tuple(Keys(app, tuple(s.secret_hash for s in mine)) for app, mine in worker.refresher.secrets.items())
    return Sweep(worker.db, keys, 100, 100, MINUTE, Pace(), 10 * MINUTE, lambda: 0, published.extend)


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


def forced(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.ADHOC, freshness=FORCED)


def data_of(servers: Servers) -> Any:
    (data,) = servers.directory.glob("postgres-*")
    return data


def restored(servers: Servers, meanwhile: Callable[[], object]) -> None:
    """Take a backup, do something, and restore the backup, as archive recovery does: on a new timeline."""
    data = data_of(servers)
    backup = data.with_name("backup")
    servers.stop_postgres()
    subprocess.run(["cp", "-a", data, backup], check=True)
    servers.start_postgres()
    meanwhile()
    servers.stop_postgres()
    shutil.rmtree(data)
    backup.rename(data)
    (data / "recovery.signal").touch()
    server_account().own(data / "recovery.signal", 0o600)
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write("restore_command = 'false'\nhot_standby = off\n")
    servers.start_postgres()


def refresh_all(own: Fleet, by: Refresher, connected: list[Connected]) -> None:
    own.db.drop_connection()
    own.update(None, "next_refresh_at = now()")
    assert {sweep(by, each).outcome for each in connected} == {Outcome.REFRESHED}


@pytest.mark.parametrize("policy", ["strict", "reuse-revokes"])
def test_row_25_a_restored_database_spends_no_stale_token_and_loses_none(
    own: Fleet, own_servers: Servers, worker: Runtime, simulator: StartedSimulator, policy: str
) -> None:
    # Fails without the look into the escrow in a new epoch: on reuse-revokes the row's old token kills the grant.
    simulator.set_policy(policy)
    connected = own.connect(4)
    refresh_all(own, worker.refresher, connected)
    restored(own_servers, lambda: refresh_all(own, worker.refresher, connected))
    own.db.drop_connection()
    calls = simulator.check().refreshes
    own.update(None, "next_refresh_at = now()")
    assert not any(own.holds_the_live_token(each) for each in connected), "the commits are lost"
    assert {forced(worker.refresher, each).reason for each in connected} == {"database_changed"}
    published: list[int] = []
    assert dispatch_due(sweep_of(worker, published)).skipped == "new_epoch"
    assert own.events() == ["database.changed"]
    assert {forced(worker.refresher, each).reason for each in connected} == {"database_changed"}, "a lease of silence"
    assert (simulator.check().refreshes, published) == (calls, [])
    own.let_pass(LEASE)
    assert {sweep(worker.refresher, each).outcome for each in connected} == {Outcome.REFRESHED}
    assert all(own.holds_the_live_token(each) for each in connected)
    assert simulator.check().refreshes == calls + 4, "the newer token first, and nothing else"
    assert own.statuses(connected) == {"active": 4}
    assert own.events() == ["database.changed"], "once"


def test_row_25_after_a_restore_verdicts_wait_a_day_or_for_a_release(
    own: Fleet, own_servers: Servers, worker: Runtime, simulator: StartedSimulator, redis_url: str
) -> None:
    # Fails without `Withheld.EPOCH`: the escrow is empty, too, and a live grant is given up.
    first, second = own.connect(2)
    refresh_all(own, worker.refresher, [first, second])
    restored(own_servers, lambda: refresh_all(own, worker.refresher, [first, second]))
    own.db.drop_connection()
    control.recognise(own.db, lease=LEASE)
    with redis.Redis.from_url(redis_url) as valkey:
        valkey.flushall()  # the second fault
    own.let_pass(LEASE)
    for each in (first, second):
        own.update(each.id, "next_refresh_at = now()")
        assert sweep(worker.refresher, each).outcome is Outcome.SUSPECT
    own.witness()
    for _ in range(4):
        own.let_pass(CONFIRMED)
        assert forced(worker.refresher, first).outcome is Outcome.SUSPECT
    assert {row.withheld for row in own.attempts(first.id)} == {None, "epoch"}
    own.let_pass(timedelta(hours=23))
    assert forced(worker.refresher, first).outcome is Outcome.NEEDS_REAUTH
    own.update(None, "not_before = NULL")
    own.db.execute("UPDATE qbo.control SET epoch_since = now() - interval '2 hours'")
    own.db.execute("UPDATE qbo.apps SET guard_released_at = now()")
    assert forced(worker.refresher, second).outcome is Outcome.NEEDS_REAUTH
    assert simulator.check().overlapping == 0


def test_row_25_a_silent_escrow_in_a_new_epoch_sends_nothing(
    own: Fleet, worker: Runtime, start_worker: Callable[..., Runtime], own_servers: Servers
) -> None:
    (connected,) = own.connect()
    refresh_all(own, worker.refresher, [connected])
    own.db.execute("UPDATE qbo.control SET epoch_since = now() - interval '5 minutes'")
    own.update(None, "next_refresh_at = now(), attempt_began_at = now() - interval '1 hour'")
    calls = own.simulator.check().refreshes
    deaf = start_worker(DATABASE_URL=as_worker(own_servers), REDIS_URL="redis://127.0.0.1:1/0")
    result = sweep(deaf.refresher, connected)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "escrow_silent")
    assert own.simulator.check().refreshes == calls


def test_row_26_a_copy_of_production_sends_nothing_until_it_is_adopted(
    own: Fleet, own_servers: Servers, worker: Runtime, environment: dict[str, str], simulator: StartedSimulator
) -> None:
    # Fails without the comparison of the system identifier in the claim.
    connected = own.connect(3)
    refresh_all(own, worker.refresher, connected)
    own.update(None, "next_refresh_at = now()")
    calls = simulator.check().refreshes
    with embedded.start(valkey=False) as others:
        copied(own_servers, others)
        # As the review app has it: production's configuration, with the copy's address.
        review = runtime.build(settings_of(environment | {"DATABASE_URL": as_worker(others)}))
        try:
            published: list[int] = []
            for _ in range(2):
                assert {forced(review.refresher, each).reason for each in connected} == {"database_changed"}
                assert dispatch_due(sweep_of(review, published)).skipped == "another_database"
            assert (simulator.check().refreshes, published) == (calls, [])
            copy = Fleet(review.db, review.settings, simulator)
            assert copy.events() == ["database.changed"], "once"
            control.adopt(review.db)
            assert {forced(review.refresher, each).reason for each in connected} == {"database_changed"}
            copy.let_pass(LEASE)
            assert {sweep(review.refresher, each).outcome for each in connected} == {Outcome.REFRESHED}
        finally:
            review.close()


def copied(source: Servers, target: Servers) -> None:
    programs = source.bin_directory
    dumped = [str(programs / "pg_dump"), "--no-privileges", "-d", source.database_url]  # roles are each server's own
    dump = subprocess.run(dumped, check=True, capture_output=True).stdout
    load = [str(programs / "psql"), "-q", "-v", "ON_ERROR_STOP=1", "-d", target.database_url]
    subprocess.run(load, input=dump, check=True, capture_output=True)
    roles.make(target.database_url)


def test_a_server_that_hides_its_identity_is_used_as_it_is(own: Fleet, worker: Runtime) -> None:
    for name, kind in (("system_identifier", "text"), ("timeline", "integer")):
        own.db.execute(f"CREATE OR REPLACE FUNCTION qbo.{name}() RETURNS {kind} LANGUAGE sql AS 'SELECT NULL::{kind}'")
    (connected,) = own.connect()
    assert control.recognise(own.db, lease=LEASE) is control.Identity.SAME
    assert sweep(worker.refresher, connected).outcome is Outcome.REFRESHED


def test_a_missing_control_row_stops_everything_and_is_named(own: Fleet, worker: Runtime) -> None:
    (connected,) = own.connect()
    own.db.execute("DELETE FROM qbo.control")
    assert forced(worker.refresher, connected).reason == "no_control_row"
    assert dispatch_due(sweep_of(worker, [])).skipped == "no_control_row"
    control.adopt(own.db)
    own.let_pass(LEASE)
    assert sweep(worker.refresher, connected).outcome is Outcome.REFRESHED
