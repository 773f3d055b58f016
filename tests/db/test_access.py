from __future__ import annotations

import pickle
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.backends.base import Backend

import qbo_refresh
from qbo_refresh import SyncPaused, TemporarilyUnavailable, UnknownConnection, sealing
from qbo_refresh.errors import ConfigurationError, QboRefreshError, WrongRealm
from qbo_refresh.sealing import Field
from qbo_refresh.tokens import Forgotten
from tests.support.hosts import configured
from worker import refresh as use_case
from worker.attempt import Freshness, Trigger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbo_refresh.configuration import Configuration
    from tests.support.fleet import Connected, Fleet
    from worker.refresh import Refresher

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[Configuration]:
    """Give a host's process whose broker is away: what can be answered without a refresh is answered."""
    with configured(environment, broker_url=NOWHERE) as made:
        yield made


@pytest.fixture
def connected(fleet: Fleet, refresher: Refresher, client: Configuration) -> Connected:
    """Give a connection that was refreshed two minutes ago."""
    assert client
    (made,) = fleet.connect()
    use_case.refresh(refresher, made.id, trigger=Trigger.SWEEP)
    fleet.let_pass(timedelta(minutes=2))
    return made


def hold(fleet: Fleet, connected: Connected, reason: str) -> None:
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, %(reason)s)",
        {"id": connected.id, "reason": reason},
    )


def api_accepts(fleet: Fleet, connected: Connected, token: qbo_refresh.AccessToken) -> bool:
    """Tell whether the token is the one that Intuit issued last."""
    row = fleet.row(connected.id)
    place = fleet.place(connected.id, Field.ACCESS_TOKEN)
    return fleet.keyring.open(row.access_token, place).reveal() == token.reveal()


def test_a_fresh_token_is_read_and_its_realm_and_expiry_with_it(fleet: Fleet, connected: Connected) -> None:
    fleet.db.execute(
        "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES ('acme-1', %(id)s)", {"id": connected.id}
    )
    for name in (connected.id, str(connected.id), "external:acme-1", f"realm:{connected.realm_id}"):
        token = qbo_refresh.access_token(name)
        assert api_accepts(fleet, connected, token)
        assert token.authorization == f"Bearer {token.reveal()}"
        assert token.realm_id.reveal() == connected.realm_id
        assert token.expires_at == fleet.row(connected.id).access_expires_at
        assert token.connection_id == connected.id


@pytest.mark.parametrize("name", [10**30, 0, -1, "8", "external:nobody", "realm:1", "nonsense", "", True, None, 7.0])
def test_a_name_that_nothing_has_is_an_error_of_its_own(connected: Connected, name: Any) -> None:
    with pytest.raises(UnknownConnection) as caught:
        qbo_refresh.access_token(name if name != "8" else str(connected.id + 1))
    assert "realm:1" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{kind}:{value}"
            for kind in ("external", "realm")
            for value in ("a\0b", "a\ud800b", "x" * 201, "x" * 10**7)
        ),
        *("9" * 30, "9" * 5000, 10**5000, -(10**5000), "7\0", "7\ud800"),
    ],
    ids=lambda name: f"{name if isinstance(name, str) else 'number'!r:.20}",
)
@pytest.mark.usefixtures("connected")
def test_a_name_that_nothing_can_have_is_unknown_to_every_call(name: Any) -> None:
    calls = (
        qbo_refresh.access_token,
        qbo_refresh.ensure_syncable,
        qbo_refresh.disconnect,
        qbo_refresh.disconnect_hint,
    )
    for call in calls:
        with pytest.raises(UnknownConnection) as caught:
            call(name)
        assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", ["a\0b", "a\ud800b", "x" * 10**4])
def test_an_external_id_that_nothing_can_have_leaves_no_connection(connected: Connected, value: str) -> None:
    with pytest.raises(UnknownConnection):
        qbo_refresh.disconnect(connected.id, external_id=value)


def test_an_external_id_of_the_longest_that_the_import_takes_is_read(fleet: Fleet, connected: Connected) -> None:
    longest = "ü" * 200
    fleet.db.execute(
        "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES (%(name)s, %(id)s)",
        {"id": connected.id, "name": longest},
    )
    assert qbo_refresh.ensure_syncable(f"external:{longest}") == connected.id


# What is asked with the broker away: a token that has to be renewed is not to be had.
@pytest.mark.parametrize(
    ("status", "held", "left_min", "expected"),
    [
        ("active", None, 58, "token"),
        ("active", None, 4, "token"),  # about to expire, and cannot be renewed: valid all the same
        ("active", None, 0.4, "broker_unavailable"),
        ("active", None, -1, "broker_unavailable"),
        ("active", "operator", 58, SyncPaused),
        ("active", "operator", -1, SyncPaused),
        ("suspect", "suspect", 58, "token"),
        ("suspect", "suspect", -1, "broker_unavailable"),
        ("needs_reauth", "reauth", 58, SyncPaused),
        ("needs_reauth", None, 58, SyncPaused),
        ("disconnected", "disconnected", -1, SyncPaused),
        ("disconnected", None, -1, SyncPaused),
    ],
)
def test_each_state_has_its_answer(
    fleet: Fleet, connected: Connected, *, status: str, held: str | None, left_min: float, expected: Any
) -> None:
    left = timedelta(minutes=left_min)
    fleet.update(connected.id, "status = %(status)s, access_expires_at = now() + %(left)s", status=status, left=left)
    if held is not None:
        hold(fleet, connected, held)
    match expected:
        case "token":
            assert api_accepts(fleet, connected, qbo_refresh.access_token(connected.id))
        case str():
            with pytest.raises(TemporarilyUnavailable) as unavailable:
                qbo_refresh.access_token(connected.id)
            assert unavailable.value.reason == expected
            assert unavailable.value.retry_after > timedelta(0)
        case _:
            with pytest.raises(SyncPaused) as paused:
                qbo_refresh.access_token(connected.id)
            assert paused.value.reasons == (held or {"needs_reauth": "reauth"}.get(status, status),)


@pytest.mark.parametrize("reason", ["operator", "reauth", "suspect", "disconnected"])
def test_syncs_may_run_only_while_no_hold_stands(fleet: Fleet, connected: Connected, reason: str) -> None:
    assert qbo_refresh.ensure_syncable(connected.id) == connected.id
    hold(fleet, connected, reason)
    with pytest.raises(SyncPaused) as caught:
        qbo_refresh.ensure_syncable(connected.id)
    assert caught.value.reasons == (reason,)


@pytest.mark.parametrize(
    ("change", "reason", "at_least", "at_most"),
    [
        ("frozen = true", "frozen", 60, 600),
        ("not_before = now() + '10 min', last_reason = 'unreachable'", "unreachable", 590, 600),
        ("status = 'suspect', not_before = now() + '15 min', last_reason = 'invalid_grant'", "suspect", 890, 900),
    ],
)
def test_nobody_is_asked_while_a_pause_binds_everybody(
    fleet: Fleet, connected: Connected, *, change: str, reason: str, at_least: int, at_most: int
) -> None:
    fleet.update(connected.id, f"access_expires_at = now(), {change}")
    with pytest.raises(TemporarilyUnavailable) as caught:
        qbo_refresh.access_token(connected.id)
    assert caught.value.reason == reason
    assert timedelta(seconds=at_least) <= caught.value.retry_after <= timedelta(seconds=at_most)


def test_a_freeze_of_all_and_a_throttled_app_are_told_apart(fleet: Fleet, connected: Connected) -> None:
    fleet.update(connected.id, "access_expires_at = now()")
    fleet.db.execute("UPDATE qbo.apps SET throttled_until = now() + interval '1 minute'")
    with pytest.raises(TemporarilyUnavailable, match="throttled"):
        qbo_refresh.access_token(connected.id)
    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    with pytest.raises(TemporarilyUnavailable, match="frozen"):
        qbo_refresh.access_token(connected.id)


def test_a_database_that_is_away_is_something_to_come_back_from(environment: dict[str, str]) -> None:
    with configured(environment, database_url="postgresql://user:canary-value@127.0.0.1:1/name"):
        for call in (qbo_refresh.access_token, qbo_refresh.ensure_syncable, qbo_refresh.events):
            with pytest.raises(TemporarilyUnavailable) as caught:
                call(7)
            assert caught.value.reason == "database_unavailable"
            assert caught.value.__suppress_context__


def test_without_a_celery_app_it_is_said_which_setting_is_missing(
    environment: dict[str, str], fleet: Fleet, connected: Connected
) -> None:
    fleet.update(connected.id, "access_expires_at = now()")
    with (
        configured(environment, broker_url=None),
        ThreadPoolExecutor(1) as a_thread,  # where no other test's app is the current one
        pytest.raises(ConfigurationError, match=r"configure\(app=…\)"),
    ):
        a_thread.submit(qbo_refresh.access_token, connected.id).result()


def test_a_key_that_is_not_here_is_named(environment: dict[str, str], connected: Connected) -> None:
    other = sealing.client_keys(f"other:{sealing.new_key()}")
    with configured(environment, client_keys=other), pytest.raises(ConfigurationError, match="CLIENT_KEYS lacks"):
        qbo_refresh.access_token(connected.id)


def test_a_token_longer_than_any_is_asked_for_at_most_once_a_minute(fleet: Fleet, connected: Connected) -> None:
    fleet.update(connected.id, "token_obtained_at = now() - interval '30 seconds'")
    assert qbo_refresh.access_token(connected.id, min_ttl=timedelta(hours=2))


def test_a_fresh_token_costs_a_millisecond_at_most(connected: Connected) -> None:
    medians = []
    for _ in range(3):
        took = []
        for _ in range(200):
            began = time.perf_counter()
            qbo_refresh.access_token(connected.id)
            took.append(time.perf_counter() - began)
        medians.append(statistics.median(took))
    sys.stdout.write(f"a fresh token: {1000 * min(medians):.2f} ms (median)\n")
    assert min(medians) < 0.001


def test_a_rejected_token_is_answered_with_the_newer_one(
    fleet: Fleet, refresher: Refresher, connected: Connected
) -> None:
    stale = qbo_refresh.access_token(connected.id)
    use_case.refresh(refresher, connected.id, trigger=Trigger.CLI, freshness=Freshness(max_age=timedelta(0)))
    newer = qbo_refresh.reject(stale)
    assert newer.version > stale.version
    assert api_accepts(fleet, connected, newer)
    with pytest.raises(TemporarilyUnavailable) as caught:
        qbo_refresh.reject(newer)
    assert caught.value.reason == "refreshed_just_now"
    assert timedelta(seconds=50) < caught.value.retry_after <= timedelta(minutes=1)


def test_rejecting_a_token_of_a_dead_connection_pauses(fleet: Fleet, connected: Connected) -> None:
    token = qbo_refresh.access_token(connected.id)
    fleet.update(connected.id, "status = 'needs_reauth'")
    with pytest.raises(SyncPaused):
        qbo_refresh.reject(token)


def test_a_token_shows_nothing_and_is_not_pickled_and_lasts_for_its_block(connected: Connected) -> None:
    with qbo_refresh.access_token(connected.id) as token:
        secret = token.reveal()
        for text in (repr(token), str(token), f"{token}", repr(vars(type(token)))):
            assert secret not in text
            assert connected.realm_id not in text
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(token)
    with pytest.raises(Forgotten):
        token.reveal()


def test_a_decorated_function_is_called_once_more_with_another_token(
    fleet: Fleet, refresher: Refresher, connected: Connected
) -> None:
    seen: list[int] = []

    @qbo_refresh.with_access_token
    def fetch(connection_id: int, *, token: qbo_refresh.AccessToken) -> str:
        seen.append(token.version)
        if len(seen) == 1:
            use_case.refresh(refresher, connection_id, trigger=Trigger.CLI, freshness=Freshness(max_age=timedelta(0)))
            raise qbo_refresh.TokenRejected
        return token.reveal()

    assert fetch(connected.id) == qbo_refresh.access_token(connected.id).reveal()
    assert seen == [2, 3]
    with pytest.raises(TypeError, match="no argument 'connection_id'"):
        qbo_refresh.with_access_token(lambda token: token)
    assert fleet


@pytest.mark.parametrize(
    "error",
    [
        SyncPaused(7, ["reauth", "operator"]),
        TemporarilyUnavailable("throttled", 12.5, 7),
        UnknownConnection("No connection has the id 7."),
        WrongRealm("Acme", None),
        WrongRealm("Acme", "Other"),
    ],
)
def test_errors_come_through_pickle_and_through_celerys_json(error: QboRefreshError) -> None:
    assert (type(copy := pickle.loads(pickle.dumps(error))), str(copy)) == (type(error), str(error))  # noqa: S301
    backend: Any = Backend(app=Celery("x", set_as_current=False))
    again = backend.exception_to_python(backend.prepare_exception(error, "json"))
    assert (type(again), str(again)) == (type(error), str(error))
    assert str(error).endswith(".")


def test_what_the_broker_cannot_take_is_not_ended(fleet: Fleet, connected: Connected) -> None:
    for call in (qbo_refresh.disconnect, qbo_refresh.disconnect_hint):
        with pytest.raises(TemporarilyUnavailable) as unavailable:
            call(connected.id)
        assert unavailable.value.reason == "broker_unavailable"
        with pytest.raises(UnknownConnection):
            call("external:nobody")
    assert fleet.row(connected.id).status == "active"


def test_who_ends_a_connection_waits_for_the_worker_but_not_for_ever(
    fleet: Fleet, connected: Connected, environment: dict[str, str]
) -> None:
    with configured(environment, broker_url=environment["REDIS_URL"]):
        with pytest.raises(TemporarilyUnavailable) as unavailable:
            qbo_refresh.disconnect(connected.id, timeout=timedelta(seconds=0.1))
        assert unavailable.value.reason == "no_answer"
        fleet.update(connected.id, "status = 'disconnected'")
        qbo_refresh.disconnect(connected.id, timeout=0)


def test_a_name_of_another_connection_does_not_leave_this_one(fleet: Fleet, connected: Connected) -> None:
    (other,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.external_ids (external_id, connection_id) VALUES ('acme-1', %(id)s)", {"id": other.id}
    )
    with pytest.raises(UnknownConnection, match="has no external id 'acme-1'"):
        qbo_refresh.disconnect(connected.id, external_id="acme-1")


def test_the_disconnect_urls_visitors_ask_nothing_within_a_minute_of_an_attempt(
    fleet: Fleet, connected: Connected
) -> None:
    fleet.update(connected.id, "attempt_began_at = now() - interval '50 s'")
    qbo_refresh.disconnect_hint(connected.id)  # with a broker that is away: nothing is sent
