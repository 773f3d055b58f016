from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from sqlalchemy.exc import DBAPIError

from qbo_refresh.status import Outcome
from tests.support.fleet import Connected, Fleet
from tests.support.proxy import FaultProxy
from tests.support.roles import WORKER, as_user
from tests.support.seams import Killed, killed, with_seam
from tests.support.sweeping import Minutes
from tests.support.waiting import wait_until
from worker.attempt import Trigger
from worker.database import Database
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intuit_simulator import StartedSimulator
    from worker.embedded import Servers
    from worker.runtime import Runtime
    from worker.settings import Settings


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


@pytest.fixture
def own_fleet(own_database_url: str, settings: Settings, simulator: StartedSimulator) -> Iterator[Fleet]:
    """Give a fleet in the database that the test may change."""
    db = Database(own_database_url)
    yield Fleet(db, settings, simulator)
    db.close()


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize("fault", [{"kind": "unavailable"}, {"kind": "answer", "status": 500}, {"kind": "drop"}])
def test_row_16_after_an_outage_of_six_hours_everybody_is_refreshed_at_the_capped_rate_and_nobody_reconnects(
    fleet: Fleet, start_worker: Callable[..., Runtime], fault: dict[str, object]
) -> None:
    # Fails with a sweep that knows no budget: seen, all nine in the first minute.
    connected = fleet.connect(9)
    minutes = Minutes(fleet, start_worker(), per_minute=3)
    outage = fleet.simulator.fault(**fault)  # type: ignore[arg-type]  # its options
    tried = [len(minutes.one()) for _ in range(3)]
    for _ in range(5):
        fleet.let_pass(timedelta(minutes=72), at_intuit=True)
        tried.append(len(minutes.one()))
    assert tried == [3] * 8
    assert {row.outcome for each in connected for row in fleet.attempts(each.id)} == {"deferred"}
    fleet.simulator.clear_fault(outage)
    fleet.let_pass(timedelta(minutes=76))  # as if beat had been away as well: all are due at once
    after = [[result.outcome for result in minutes.one()] for _ in range(4)]
    assert after == [[Outcome.REFRESHED] * 3] * 3 + [[]]
    assert fleet.statuses(connected) == {"active": 9}
    assert all(fleet.holds_the_live_token(each) for each in connected)
    assert all(fleet.events(each.id) == [] for each in connected)


def test_row_23_postgresql_that_stops_at_the_save_gets_the_token_when_it_is_back(
    fleet: Fleet, start_worker: Callable[..., Runtime], session_servers: Servers
) -> None:
    # Fails without the repetition in `until_acknowledged`: seen.
    worker = start_worker()
    connected, other = fleet.connect(2)
    stopping = with_seam(worker.refresher, "escrow", "put", after=session_servers.stop_postgres)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(sweep, stopping, connected)
        try:
            wait_until(lambda: not worker.refresher.may_claim())
            assert sweep(worker.refresher, other).reason == "busy_saving"
        finally:
            session_servers.start_postgres()
        assert result.result(30).outcome is Outcome.REFRESHED
    fleet.db.drop_connection()
    assert fleet.holds_the_live_token(connected)
    assert worker.refresher.may_claim()
    assert fleet.simulator.check().refreshes == 1


def test_row_23_a_database_that_has_become_read_only_gets_the_token_when_it_may_be_written(
    own_fleet: Fleet, own_database_url: str, start_worker: Callable[..., Runtime], database_url: str
) -> None:
    worker = start_worker(DATABASE_URL=as_user(own_database_url, WORKER))
    (connected,) = own_fleet.connect()

    def read_only(*, on: bool) -> None:
        execute(database_url, f"ALTER DATABASE own SET default_transaction_read_only = {on}")
        execute(database_url, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'own'")

    closing = with_seam(worker.refresher, "escrow", "put", after=lambda: read_only(on=True))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(sweep, closing, connected)
        wait_until(lambda: not worker.refresher.may_claim())
        assert not result.done()
        read_only(on=False)
        assert result.result(30).outcome is Outcome.REFRESHED
    own_fleet.db.drop_connection()
    assert own_fleet.holds_the_live_token(connected)


def test_row_23_a_row_whose_full_save_is_refused_for_good_keeps_its_tokens_at_least(
    own_fleet: Fleet, own_database_url: str, start_worker: Callable[..., Runtime]
) -> None:
    odd, well = own_fleet.connect(2)
    execute(
        own_database_url,
        f"ALTER TABLE qbo.connections ADD CHECK (id <> {odd.id} OR refresh_expires_at IS NULL)",
    )
    refresher = start_worker(DATABASE_URL=as_user(own_database_url, WORKER)).refresher
    assert sweep(refresher, odd).outcome is Outcome.REFRESHED
    assert own_fleet.holds_the_live_token(odd)
    assert sweep(refresher, well).outcome is Outcome.REFRESHED


def test_row_23_a_row_whose_every_save_is_refused_becomes_a_candidate_and_the_others_go_on(
    own_fleet: Fleet, own_database_url: str, start_worker: Callable[..., Runtime]
) -> None:
    odd, well = own_fleet.connect(2)
    execute(
        own_database_url,
        f"ALTER TABLE qbo.connections ADD CONSTRAINT odd CHECK (id <> {odd.id} OR token_version = 1)",
    )
    worker = start_worker(DATABASE_URL=as_user(own_database_url, WORKER))
    assert sweep(worker.refresher, odd).reason == "overtaken"
    (candidate,) = own_fleet.candidates(odd.id)
    assert (candidate.source, candidate.tried_at) == ("refused_save", None)
    assert worker.refresher.may_claim()
    assert sweep(worker.refresher, well).outcome is Outcome.REFRESHED
    execute(own_database_url, "ALTER TABLE qbo.connections DROP CONSTRAINT odd")
    own_fleet.let_pass(timedelta(minutes=5))
    assert sweep(worker.refresher, odd).outcome is Outcome.REFRESHED
    assert own_fleet.holds_the_live_token(odd)
    assert own_fleet.state(odd).refusals == 0


def test_row_23_saves_that_deadlock_with_somebody_elses_work_are_repeated(
    fleet: Fleet, refresher: Refresher, database_url: str
) -> None:
    (connected,) = fleet.connect()
    with psycopg.connect(database_url) as host:

        def cut() -> None:
            host.execute("SELECT FROM qbo.connections FOR UPDATE")
            threading.Thread(target=end_our_waiting_save, daemon=True).start()

        def end_our_waiting_save() -> None:
            with psycopg.connect(database_url, autocommit=True) as operator:
                wait_until(
                    lambda: operator.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
                    ).fetchone()
                )
            host.rollback()

        result = sweep(with_seam(refresher, "escrow", "put", after=cut), connected)
    assert result.outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    assert fleet.row(connected.id).token_version == 2


def test_row_23_a_save_that_is_the_victim_of_a_deadlock_is_repeated(
    fleet: Fleet, refresher: Refresher, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Fails with class 40 left out of what may pass: seen, the save is taken for refused.
    (connected,) = fleet.connect()
    fleet.update(connected.id, "status = 'suspect', suspect_since = now()")  # saved in several statements
    secret_hash = refresher.secrets[connected.app_id][0].secret_hash
    fleet.db.execute(
        "INSERT INTO qbo.app_blocks (app_id, secret_hash, reason, connection_ids)"
        " VALUES (%(app)s, %(hash)s, 'invalid_request', '{}')",
        {"app": connected.app_id, "hash": secret_hash},
    )
    with psycopg.connect(database_url) as host, psycopg.connect(database_url, autocommit=True) as operator:
        host.execute("SET deadlock_timeout = '30s'")  # so that the host is not the victim
        host.commit()

        def want_the_row_after_the_save_has_it() -> None:
            waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            wait_until(lambda: operator.execute(waits).fetchone() is not None)
            host.execute("SELECT FROM qbo.connections FOR UPDATE")
            host.rollback()

        def cross() -> None:
            host.execute("SELECT FROM qbo.app_blocks FOR UPDATE")
            threading.Thread(target=want_the_row_after_the_save_has_it, daemon=True).start()

        result = sweep(with_seam(refresher, "escrow", "put", after=cross), connected)
    assert result.outcome is Outcome.REFRESHED
    assert "save.repeating sqlstate=40P01" in caplog.text
    assert fleet.holds_the_live_token(connected)
    assert (fleet.row(connected.id).token_version, fleet.outcomes(connected.id)) == (2, [("refreshed", None)])


def test_row_23_a_disk_that_is_full_at_the_save_gets_the_token_when_there_is_room(
    own_fleet: Fleet,
    own_database_url: str,
    start_worker: Callable[..., Runtime],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The ledger's file becomes /dev/full for a while: PostgreSQL gets a true ENOSPC of the kernel's, and says 53100.
    # Fails with class 53 left out of what may pass: seen, the save is taken for refused.
    worker = start_worker(DATABASE_URL=as_user(own_database_url, WORKER))
    (connected,) = own_fleet.connect()
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE qbo.refresh_attempts")
        query = "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('qbo.refresh_attempts')"
        file = Path(str((connection.execute(query).fetchone() or ("",))[0]))
    aside = file.with_suffix(".aside")

    def fill() -> None:
        file.rename(aside)
        file.symlink_to("/dev/full")
        worker.db.drop_connection()  # a new session opens the file anew

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(sweep, with_seam(worker.refresher, "escrow", "put", after=fill), connected)
        try:
            wait_until(lambda: "save.repeating sqlstate=53100" in caplog.text or result.done())
            assert not result.done()
            assert not worker.refresher.may_claim()
        finally:
            aside.replace(file)
        assert result.result(30).outcome is Outcome.REFRESHED
    own_fleet.db.drop_connection()
    assert own_fleet.holds_the_live_token(connected)


def test_row_23_a_save_is_repeated_every_other_second_through_two_hours_and_then_saves(
    start_worker: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fails with an end to the patience, and with pauses that go on doubling: seen.
    worker = start_worker()
    with pytest.raises(DBAPIError) as refused:
        Database("postgresql+psycopg://user@127.0.0.1:1/away").execute("SELECT")
    passed, pauses = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        pauses.append(seconds)

    def saved() -> str:
        assert not pauses or not worker.refresher.may_claim(), "meanwhile nothing is claimed"
        if passed < two_hours:
            raise refused.value
        return "saved"

    two_hours = timedelta(hours=2).total_seconds()
    monkeypatch.setattr(time, "sleep", sleep)
    assert worker.db.until_acknowledged(saved, give_up=worker.stop.time_is_up) == "saved"
    assert (sum(pauses[:7]) < 8, max(pauses)) == (True, 2), (
        "quick at first, and it hardly waits when the server is back"
    )
    assert worker.refresher.may_claim()


@pytest.mark.parametrize("away", [timedelta(hours=2), timedelta(days=29)], ids=["two hours", "29 days"])
def test_row_23_what_an_old_worker_could_not_save_lies_in_the_escrow_for_the_new_one_however_long_it_takes(
    fleet: Fleet, start_worker: Callable[..., Runtime], redis_url: str, away: timedelta
) -> None:
    # Fails with copies that live an hour, or 25 hours as those that were saved: seen, the grant is lost.
    (connected,) = fleet.connect()
    with pytest.raises(Killed):
        sweep(with_seam(start_worker().refresher, "store", "save", before=killed), connected)
    fleet.let_pass(away, at_intuit=True)
    with redis.Redis.from_url(redis_url) as valkey:
        for key in valkey.scan_iter("qbo:escrow:*"):
            valkey.expire(key, valkey.ttl(key) - int(away.total_seconds()))
    new = start_worker().refresher
    assert sweep(new, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    assert fleet.state(connected).refusals == 0


@pytest.mark.parametrize("statement", ["WITH saved AS", "WITH held AS", "UPDATE qbo.connections c SET", "COMMIT"])
@pytest.mark.parametrize("suspected", [False, True])
def test_row_24_a_statement_whose_acknowledgement_is_lost_is_applied_once(
    fleet: Fleet, start_worker: Callable[..., Runtime], database_url: str, statement: str, *, suspected: bool
) -> None:
    # A suspect is saved in a transaction of several statements, an active connection in one.
    (connected,) = fleet.connect()
    if suspected:
        fleet.update(connected.id, "status = 'suspect', suspect_since = now() - interval '1 hour'")
    lost = suspected or statement != "COMMIT"
    with FaultProxy(database_url) as proxy:
        refresher = start_worker(DATABASE_URL=proxy.url).refresher
        proxy.lose_the_answer_to(statement)
        assert sweep(refresher, connected).outcome is Outcome.REFRESHED
        assert proxy.lost == int(lost)
    assert fleet.holds_the_live_token(connected)
    assert fleet.row(connected.id).token_version == 2
    assert fleet.outcomes(connected.id) == [("refreshed", None)]
    assert fleet.simulator.check().refreshes == 1
    assert fleet.row(connected.id).lease_id is None


@pytest.mark.parametrize("statement", ["UPDATE qbo.connections c", "COMMIT"])
def test_row_24_a_verdict_whose_acknowledgement_is_lost_is_written_once(
    fleet: Fleet, start_worker: Callable[..., Runtime], database_url: str, statement: str
) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.revoke(connected.realm_id)
    with FaultProxy(database_url) as proxy:
        refresher = start_worker(DATABASE_URL=proxy.url).refresher
        arming = with_seam(refresher, "intuit", "refresh", before=lambda: proxy.lose_the_answer_to(statement))
        sweep(arming, connected)
        assert proxy.lost == 1
        fleet.witness()
        fleet.let_pass(timedelta(minutes=16))
        sweep(arming, connected)
        assert proxy.lost == 2
    assert fleet.row(connected.id).status == "needs_reauth"
    assert fleet.events(connected.id) == ["connection.needs_reauth", "sync.paused"]
    assert fleet.holds(connected.id) == {"reauth"}
