from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis

from qbo_refresh.sealing import Field, new_key
from qbo_refresh.secret import Secret
from qbo_refresh.status import Ending, Outcome
from worker.attempt import Trigger
from worker.ending import NotDeleted, delete, disconnect, revoke_due
from worker.escrow import RedisEscrow
from worker.exchange import exchange
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.attempts import Attempts
    from tests.support.consents import Consents
    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime


@pytest.fixture
def worker(start_worker: Callable[..., Runtime]) -> Runtime:
    return start_worker()


def name(fleet: Fleet, connected: Connected, *external_ids: str) -> None:
    for external_id in external_ids:
        fleet.db.execute(
            "INSERT INTO qbo.external_ids VALUES (%(name)s, %(id)s)", {"name": external_id, "id": connected.id}
        )


def count(fleet: Fleet, table: str) -> int:
    return int(fleet.db.execute(f"SELECT count(*) AS n FROM qbo.{table}").one().n)  # noqa: S608  # a test's own text


def test_a_disconnect_forgets_the_tokens_tells_intuit_and_holds_the_syncs(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    assert disconnect(worker.ender, connected.id).as_dict() == {
        "connection_id": connected.id,
        "outcome": "disconnected",
        "reason": None,
        "revoked": True,
    }
    assert not fleet.state(connected).alive
    row = fleet.row(connected.id)
    assert (row.status, row.token_version, row.next_refresh_at) == ("disconnected", 2, None)
    assert [row.refresh_token, row.previous_refresh_token, row.access_token, row.known_fingerprint] == [None] * 4
    assert (count(fleet, "revocations"), fleet.holds(connected.id)) == (0, {"disconnected"})
    assert fleet.events(connected.id) == ["connection.disconnected", "sync.paused"]
    again = disconnect(worker.ender, connected.id)
    assert (again.outcome, again.reason, again.revoked) == (Ending.SKIPPED, "disconnected", None)
    assert disconnect(worker.ender, 10**12).reason == "unknown_connection"
    assert refresh(worker.refresher, connected.id, trigger=Trigger.CLI).outcome is Outcome.SKIPPED


def test_what_was_paused_is_not_paused_once_more(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "status = 'needs_reauth', next_refresh_at = NULL")
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) SELECT %(id)s, unnest(ARRAY['reauth', 'operator'])",
        {"id": connected.id},
    )
    assert disconnect(worker.ender, connected.id).outcome is Ending.DISCONNECTED
    assert fleet.holds(connected.id) == {"disconnected", "operator"}
    assert fleet.events(connected.id) == ["connection.disconnected"]


def test_one_of_several_names_leaves_and_the_last_one_ends_the_connection(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    name(fleet, connected, "acme-1", "acme-2")
    strange = disconnect(worker.ender, connected.id, external_id="other")
    assert (strange.outcome, strange.reason) == (Ending.SKIPPED, "unknown_external_id")
    left = disconnect(worker.ender, connected.id, external_id="acme-1")
    assert (left.outcome, left.revoked) == (Ending.LEFT, None)
    assert (fleet.row(connected.id).status, fleet.state(connected).alive) == ("active", True)
    assert disconnect(worker.ender, connected.id, external_id="acme-2").outcome is Ending.DISCONNECTED
    assert not fleet.state(connected).alive
    assert count(fleet, "external_ids") == 1, "by the last name it is reconnected"


def test_every_token_that_may_be_live_is_revoked(fleet: Fleet, worker: Runtime, one: Attempts) -> None:
    (connected,) = fleet.connect()
    one.keep(one.claimed(connected.id), "RT1-a-candidate-of-this-very-grant")
    fleet.let_pass(timedelta(seconds=61))
    assert disconnect(worker.ender, connected.id).revoked
    assert fleet.simulator.check().revocations == 2
    assert (fleet.candidates(connected.id), fleet.state(connected).alive) == ([], False)


def test_a_revocation_is_asked_again_with_pauses_until_intuit_has_answered(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault("unavailable", endpoint="revoke")
    assert disconnect(worker.ender, connected.id).revoked is False
    assert revoke_due(worker.ender) == 0
    row = fleet.db.execute("SELECT failures, not_before - now() AS pause FROM qbo.revocations").one()
    assert row.failures == 1
    assert timedelta(seconds=50) < row.pause < timedelta(seconds=80)
    fleet.simulator.clear_faults()
    fleet.let_pass(timedelta(minutes=2))
    assert worker.ender.store.anything_left()
    assert revoke_due(worker.ender) == 1
    assert not worker.ender.store.anything_left()
    assert not fleet.state(connected).alive


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        ({"body": ""}, True),  # as Intuit answers for what was revoked before
        ({"error": "invalid_grant", "description": "Token invalid"}, True),
        ({"error": "invalid_token"}, True),
        ({"error": "invalid_grant", "description": "Incorrect Token type or clientID"}, False),
        ({"error": "invalid_request"}, False),
        ({"error": "invalid_client"}, False),
        ({"error": "unauthorized_client"}, False),
        ({"body": "<html>We are sorry</html>", "content_type": "text/html"}, False),
        ({"body": '{"error": ["invalid_grant"]}'}, False),
    ],
)
def test_what_intuit_refuses_to_revoke_for_another_reason_is_asked_again(
    fleet: Fleet, worker: Runtime, answer: dict[str, str], *, gone: bool
) -> None:
    # Fails if every 400 counts as "already gone": seen, the live grant stays at Intuit for good.
    (connected,) = fleet.connect()
    fleet.simulator.fault("answer", endpoint="revoke", status=400, **answer)
    assert disconnect(worker.ender, connected.id).revoked is gone
    fleet.simulator.clear_faults()
    fleet.let_pass(timedelta(minutes=2))
    revoke_due(worker.ender)
    assert (fleet.state(connected).alive, count(fleet, "revocations")) == (gone, 0)


def test_a_frozen_fleet_revokes_nothing(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    assert disconnect(worker.ender, connected.id).revoked is False
    assert fleet.state(connected).alive
    fleet.db.execute("UPDATE qbo.control SET frozen = false")
    assert revoke_due(worker.ender) == 1


def test_a_token_that_must_be_dead_by_now_is_forgotten(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault("unavailable", endpoint="revoke")
    disconnect(worker.ender, connected.id)
    fleet.let_pass(timedelta(days=101))
    assert revoke_due(worker.ender) == 0
    assert count(fleet, "revocations") == 0


def test_the_previous_client_secret_revokes_too(fleet: Fleet, start_worker: Callable[..., Runtime]) -> None:
    (connected,) = fleet.connect()
    worker = start_worker(INTUIT_CLIENT_SECRET="new", INTUIT_CLIENT_SECRET_PREVIOUS=fleet.simulator.client_secret)
    assert disconnect(worker.ender, connected.id).revoked


def test_a_deletion_leaves_no_trace(fleet: Fleet, consents: Consents, worker: Runtime, redis_url: str) -> None:
    other, connected = fleet.connect(2)
    fleet.db.execute("ALTER SEQUENCE qbo.authorizations_id_seq RESTART WITH 1000000")  # no connection's number
    for each in (other, connected):
        assert refresh(worker.refresher, each.id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    name(fleet, connected, "acme-1")
    assert exchange(worker.exchanger, consents.accepted(connected.id, connected.realm_id)).connection_id == connected.id
    consents.link(connected.id)
    with redis.Redis.from_url(redis_url, decode_responses=True) as valkey:
        assert len(list(valkey.scan_iter("qbo:escrow:*:0:0"))) == 1, "of this connection's consent"
        somebody_elses_consent = f"qbo:escrow:{connected.id}:0:0"
        valkey.rpush(somebody_elses_consent, "sealed")
        deleted = delete(worker.ender, worker.escrow, connected.id, keep_grant=False)
        assert set(valkey.scan_iter("qbo:escrow:*")) == {f"qbo:escrow:{other.id}:1:1", somebody_elses_consent}
    assert (deleted.connections, deleted.attempts, deleted.events, deleted.undelivered) == (1, 2, 3, 3)
    assert not fleet.state(connected).alive
    tables = ("connections", "refresh_attempts", "external_ids", "authorizations", "revocations", "outbox")
    assert {table: count(fleet, table) for table in (*tables, "sync_holds", "candidates")} == {
        "connections": 1, "refresh_attempts": 1, "external_ids": 0, "authorizations": 0, "revocations": 0,
        "outbox": 0, "sync_holds": 0, "candidates": 0,
    }  # fmt: skip
    assert fleet.holds_the_live_token(other)


def test_a_grant_that_could_not_be_revoked_keeps_its_connection_from_being_deleted(
    fleet: Fleet, worker: Runtime
) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault("unavailable", endpoint="revoke")
    with pytest.raises(NotDeleted, match="Intuit has not acknowledged it yet"):
        delete(worker.ender, worker.escrow, connected.id, keep_grant=False)
    assert fleet.row(connected.id).status == "disconnected"
    fleet.simulator.clear_faults()
    fleet.let_pass(timedelta(minutes=2))
    assert delete(worker.ender, worker.escrow, connected.id, keep_grant=False).connections == 1
    assert not fleet.state(connected).alive


def test_a_connection_that_another_system_has_now_is_deleted_and_its_grant_lives(fleet: Fleet, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    delete(worker.ender, worker.escrow, connected.id, keep_grant=True)
    assert (count(fleet, "connections"), fleet.state(connected).alive) == (0, True)
    assert fleet.simulator.check().calls == 0


def _escrowed(connected: Connected, blob: bytes) -> tuple[str, str]:
    entry = [str(uuid4()), base64.b64encode(blob).decode(), base64.b64encode(bytes(32)).decode()]
    return f"qbo:escrow:{connected.id}:1:1", json.dumps(entry)


def test_a_copy_that_is_no_blob_of_the_connection_keeps_its_grant_from_no_revocation(
    fleet: Fleet, worker: Runtime, redis_url: str
) -> None:
    # Seen when one that does not open was the end of all: the grant lived on for its 100 days.
    connected, other = fleet.connect(2)
    with redis.Redis.from_url(redis_url) as valkey:
        valkey.rpush(*_escrowed(connected, fleet.seal(other.id, other.refresh_token)))
    assert disconnect(worker.ender, connected.id).revoked
    assert (fleet.state(connected).alive, fleet.state(other).alive) == (False, True)


def test_a_copy_whose_key_is_missing_is_asked_for_again_and_the_others_are_revoked(
    fleet: Fleet, worker: Runtime, redis_url: str, start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    stranger = start_worker(TOKEN_KEYS=f"other:{new_key()}")
    place = fleet.place(connected.id, Field.REFRESH_TOKEN)
    with redis.Redis.from_url(redis_url) as valkey:
        valkey.rpush(*_escrowed(connected, stranger.refresher.keyring.seal(Secret("RT1-newer"), place)))
    assert disconnect(worker.ender, connected.id).revoked is False
    assert not fleet.state(connected).alive
    assert count(fleet, "revocations") == 1
    assert fleet.events() == ["row.unreadable"]


def test_a_token_that_does_not_open_under_another_key_of_the_same_name_is_not_taken_for_revoked(
    fleet: Fleet, worker: Runtime, environment: dict[str, str], start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    key_id = environment["TOKEN_KEYS"].partition(":")[0]
    mistaken = start_worker(TOKEN_KEYS=f"{key_id}:{new_key()}")
    assert disconnect(mistaken.ender, connected.id).revoked is False
    assert (count(fleet, "revocations"), fleet.state(connected).alive) == (1, True)
    fleet.let_pass(timedelta(minutes=2))
    assert revoke_due(worker.ender) == 1
    assert not fleet.state(connected).alive


def test_a_deletion_that_cannot_reach_redis_is_finished_by_a_second_one(
    fleet: Fleet, worker: Runtime, redis_url: str
) -> None:
    # Seen when the rows went first: the copies stayed, and nobody knew any more whose they were.
    (connected,) = fleet.connect()
    assert refresh(worker.refresher, connected.id, trigger=Trigger.SWEEP).outcome is Outcome.REFRESHED
    with pytest.raises(redis.RedisError):
        delete(worker.ender, RedisEscrow("redis://127.0.0.1:1/0"), connected.id, keep_grant=False)
    assert (fleet.row(connected.id).status, fleet.state(connected).alive) == ("disconnected", False)
    assert delete(worker.ender, worker.escrow, connected.id, keep_grant=False).connections == 1
    with redis.Redis.from_url(redis_url) as valkey:
        assert list(valkey.scan_iter("qbo:escrow:*")) == []
