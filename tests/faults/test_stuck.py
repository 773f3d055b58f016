"""Servers that are there and do not answer: no statement of the worker waits for ever."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from qbo_refresh.status import Outcome
from tests.support.proxy import FaultProxy, Way
from tests.support.seams import with_seam
from tests.support.waiting import WAITING_FOR_LOCKS, wait_until
from worker.attempt import Trigger
from worker.database import DatabaseUnavailable
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

SHORT = {"LEASE_SECONDS": "3"}  # no statement takes more than 2 s, or 3 if the server says nothing
DEAF = Way(dropped=True)


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


@pytest.fixture
def proxy(database_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(database_url) as running:
        yield running


@pytest.fixture
def worker(start_worker: Callable[..., Runtime], proxy: FaultProxy) -> Runtime:
    return start_worker(DATABASE_URL=proxy.url, **SHORT)


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("method", ["claim", "conclude"])
def test_a_database_that_says_nothing_is_given_up_at_a_claim_and_at_a_failure(
    fleet: Fleet, worker: Runtime, proxy: FaultProxy, method: str, way: str
) -> None:
    # Fails with psycopg's own connection: it waits for ever.
    (connected,) = fleet.connect()
    fleet.simulator.fault("unavailable")
    deaf = with_seam(worker.refresher, "store", method, before=lambda: proxy.set(**{way: DEAF}))
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        sweep(deaf, connected)
    assert time.monotonic() - began < 12
    row = fleet.row(connected.id)
    assert (row.status, fleet.token(connected.id)) == ("active", connected.refresh_token)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_save_that_hears_nothing_is_repeated_and_applied_once(
    fleet: Fleet, worker: Runtime, proxy: FaultProxy, way: str
) -> None:
    connected, other = fleet.connect(2)
    deaf = with_seam(worker.refresher, "escrow", "put", after=lambda: proxy.set(**{way: DEAF}))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(sweep, deaf, connected)
        wait_until(lambda: not worker.refresher.may_claim())
        assert sweep(worker.refresher, other).reason == "busy_saving"
        proxy.heal()
        assert result.result(30).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    assert (fleet.row(connected.id).token_version, fleet.outcomes(connected.id)) == (2, [("refreshed", None)])


def test_a_lock_of_somebody_elses_delays_a_save_and_leaves_no_session_waiting_for_it(
    fleet: Fleet, start_worker: Callable[..., Runtime], database_url: str
) -> None:
    # Fails without `statement_timeout`: a session of each try is left, waiting for the lock.
    worker = start_worker(LEASE_SECONDS="6")  # two seconds for the call before, on a busy machine
    (connected,) = fleet.connect()
    with psycopg.connect(database_url) as host, psycopg.connect(database_url, autocommit=True) as operator:
        lock = "SELECT FROM qbo.connections FOR UPDATE"
        with ThreadPoolExecutor(1) as pool:
            locked = with_seam(worker.refresher, "escrow", "put", after=lambda: host.execute(lock))
            result = pool.submit(sweep, locked, connected)
            (first,) = wait_until(lambda: operator.execute(WAITING_FOR_LOCKS).fetchall())
            (second,) = wait_until(
                lambda: [pid for pid in operator.execute(WAITING_FOR_LOCKS).fetchall() if pid != first]
            )
            assert operator.execute(WAITING_FOR_LOCKS).fetchall() == [second]
            host.rollback()
            assert result.result(30).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


def test_a_claim_that_finds_its_row_locked_gives_up_in_time(
    fleet: Fleet, start_worker: Callable[..., Runtime], database_url: str
) -> None:
    worker = start_worker(**SHORT)
    (connected,) = fleet.connect()
    with psycopg.connect(database_url) as host:
        host.execute("SELECT FROM qbo.connections FOR UPDATE")
        with pytest.raises(DatabaseUnavailable):
            sweep(worker.refresher, connected)
    assert sweep(start_worker().refresher, connected).outcome is Outcome.REFRESHED


def test_an_escrow_that_says_nothing_costs_a_second_and_not_the_save(
    fleet: Fleet, start_worker: Callable[..., Runtime], redis_url: str
) -> None:
    first, second = fleet.connect(2)
    with FaultProxy(redis_url) as valkey:
        worker = start_worker(REDIS_URL=valkey.url).refresher
        assert sweep(worker, first).outcome is Outcome.REFRESHED
        valkey.set(down=DEAF)
        began = time.monotonic()
        assert sweep(worker, second).outcome is Outcome.REFRESHED
        assert time.monotonic() - began < 5
    assert [fleet.attempts(each.id)[0].exposed_us is None for each in (first, second)] == [False, True]
    assert fleet.holds_the_live_token(second)
