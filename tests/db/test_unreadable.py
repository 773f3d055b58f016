"""A key that is missing is told once for each app, whatever it has sealed and however much."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
import redis

from qbo_refresh import sealing
from qbo_refresh.sealing import Keyring
from qbo_refresh.secret import Secret
from qbo_refresh.status import Ending, Outcome
from worker.attempt import Trigger
from worker.ending import disconnect
from worker.refresh import refresh
from worker.store import unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.attempts import Attempts
    from tests.support.commands import Run
    from tests.support.fleet import Connected, Fleet
    from worker.refresh import Refresher
    from worker.runtime import Runtime


@pytest.fixture
def keyless(start_worker: Callable[..., Runtime]) -> Runtime:
    """Give a worker that has lost its key."""
    return start_worker(TOKEN_KEYS=f"another:{sealing.new_key()}")


def seal_with(fleet: Fleet, keyring: Keyring, connected: Connected) -> bytes:
    return keyring.seal(Secret(connected.refresh_token), fleet.place(connected.id))


def told(fleet: Fleet) -> list[dict[str, Any]]:
    rows = fleet.db.execute("SELECT payload FROM qbo.outbox WHERE type = 'row.unreadable' ORDER BY id")
    return [row.payload for row in rows]


def test_the_rows_of_a_lost_key_are_one_event_and_each_says_of_itself(
    fleet: Fleet, keyless: Runtime, start_worker: Callable[..., Runtime], caplog: pytest.LogCaptureFixture
) -> None:
    # Fails with an event each time that something is met: seen, as many as rows. Four workers at once.
    connected = fleet.connect(40)
    old = Keyring.from_text(f"old:{sealing.new_key()}")
    for each in connected[:20]:
        fleet.update(each.id, "refresh_token = %(blob)s", blob=seal_with(fleet, old, each))
    text = keyless.settings.keys_text()
    workers = [keyless, *(start_worker(TOKEN_KEYS=text) for _ in range(3))]
    together = Barrier(4, timeout=20)

    def work(number: int) -> list[Outcome]:
        together.wait()
        mine = connected[number::4]
        return [refresh(workers[number].refresher, each.id, trigger=Trigger.SWEEP).outcome for each in mine]

    with ThreadPoolExecutor(4) as pool:
        assert {outcome for found in pool.map(work, range(4)) for outcome in found} == {Outcome.UNREADABLE}
    app = {"environment": "sandbox", "client_id": fleet.app.client_id, "reason": "key_missing"}
    elder, lost = sorted(told(fleet), key=lambda payload: str(payload["key_id"]))
    assert elder.pop("first_connection_id") in {each.id for each in connected[:20]}
    assert lost.pop("first_connection_id") in {each.id for each in connected[20:]}
    assert (elder, lost) == (app | {"key_id": "old"}, app | {"key_id": "test"})
    errors = [record.getMessage().split()[0] for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["row.unreadable"] * 2, "which is what Sentry hears of"
    assert {fleet.row(each.id).last_outcome for each in connected} == {"unreadable"}


def test_status_says_how_many_rows_and_which_keys(fleet: Fleet, keyless: Runtime, run: Run) -> None:
    for each in fleet.connect(3):
        refresh(keyless.refresher, each.id, trigger=Trigger.SWEEP)
    found = json.loads(run("status", "--json")[1])
    (episode,) = found["apps"][0]["unreadable"]
    assert (episode["key_id"], episode["reason"]) == ("test", "key_missing")
    status, out, _ = run("status", "--check")
    assert (status, "3 connections do not open" in out) == (1, True)
    assert "the key 'test' missing since" in run("status")[1]
    assert "unreadable" in run("explain", str(each.id))[1]


def test_candidates_of_a_lost_key_are_the_same_episode(
    fleet: Fleet, one: Attempts, caplog: pytest.LogCaptureFixture
) -> None:
    # Fails with log.error in `presenting._opened`: seen, Sentry hears of each.
    connected = fleet.connect(5)
    lost = Keyring.from_text(f"lost:{sealing.new_key()}")
    for each in connected:
        fleet.db.execute(
            "INSERT INTO qbo.candidates (connection_id, grant_number, base_version, source, refresh_token, fingerprint)"
            " VALUES (%(id)s, 1, 1, 'late_save', %(blob)s, 'x')",
            {"id": each.id, "blob": seal_with(fleet, lost, each)},
        )
        assert refresh(one.by, each.id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    assert [(each["reason"], each["key_id"]) for each in told(fleet)] == [("key_missing", "lost")]
    assert [record.getMessage().split()[0] for record in caplog.records if record.levelno >= logging.ERROR] == [
        "row.unreadable"
    ]


def test_entries_in_the_escrow_that_are_none_are_an_error_once_an_hour(
    fleet: Fleet, refresher: Refresher, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Fails with an error for each: seen, five.
    connected = fleet.connect(5)
    with redis.Redis.from_url(redis_url) as client:
        for each in connected:
            client.rpush(f"qbo:escrow:{each.id}:1:1", "rubbish")
    fleet.update(None, "in_doubt = true")
    for each in connected:
        assert refresh(refresher, each.id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    levels = [record.levelname for record in caplog.records if "escrow.entry_unreadable" in record.getMessage()]
    assert levels == ["ERROR", *["WARNING"] * 4]


@pytest.fixture
def untellable(fleet: Fleet) -> Iterator[None]:
    """Have PostgreSQL take everything but what is told of values that do not open."""
    fleet.db.execute(
        "CREATE FUNCTION qbo.refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'away' USING ERRCODE = 'cannot_connect_now'; END $$"
    )
    fleet.db.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON qbo.unreadable_keys FOR EACH ROW EXECUTE FUNCTION qbo.refuse()"
    )
    yield
    fleet.db.execute("DROP FUNCTION qbo.refuse CASCADE")


@pytest.mark.usefixtures("untellable")
def test_what_cannot_be_told_changes_no_outcome(
    fleet: Fleet, start_worker: Callable[..., Runtime], caplog: pytest.LogCaptureFixture
) -> None:
    # Seen to fail when it was raised: a disconnect that had ended the connection answered "database_unavailable".
    keyless = start_worker(TOKEN_KEYS=f"another:{sealing.new_key()}", LEASE_SECONDS="12")  # it waits for a second
    refreshed, ended = fleet.connect(2)
    assert refresh(keyless.refresher, refreshed.id, trigger=Trigger.SWEEP).outcome is Outcome.UNREADABLE
    done = disconnect(keyless.ender, ended.id)
    assert (done.outcome, done.revoked) == (Ending.DISCONNECTED, False)
    assert (told(fleet), fleet.events(ended.id)) == ([], ["connection.disconnected", "sync.paused"])
    untold = [record.levelname for record in caplog.records if "row.unreadable_untold" in record.getMessage()]
    assert untold == ["WARNING"] * 2


def test_an_episode_goes_on_while_anything_is_met_and_ends_two_hours_after_the_last(
    fleet: Fleet, keyless: Runtime
) -> None:
    # Fails without `met_at` in `_MEET`: seen, it ended while rows were still met, and was told again.
    (connected,) = fleet.connect()
    app_ids = [connected.app_id]
    for _ in range(4):
        refresh(keyless.refresher, connected.id, trigger=Trigger.SWEEP)
        fleet.let_pass(timedelta(minutes=70))
        unreadable.close_quiet(fleet.db, app_ids)
    (episode,) = unreadable.episodes(fleet.db)
    assert timedelta(0) <= episode.met_at - episode.since - timedelta(minutes=210) < timedelta(minutes=1)
    fleet.let_pass(timedelta(minutes=51))
    unreadable.close_quiet(fleet.db, [])
    assert len(unreadable.episodes(fleet.db)) == 1, "of an app whose keys are elsewhere"
    unreadable.close_quiet(fleet.db, app_ids)
    assert unreadable.episodes(fleet.db) == []
    assert len(told(fleet)) == 1
