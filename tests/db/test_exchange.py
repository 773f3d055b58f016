from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from qbo_refresh import authorizing, database
from qbo_refresh.errors import ConsentFailed, WrongRealm
from qbo_refresh.sealing import Field, realm_place
from qbo_refresh.status import Authorized, Outcome
from worker.attempt import Trigger
from worker.errors import GrantRejected
from worker.exchange import exchange
from worker.refresh import refresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.attempts import Attempts
    from tests.support.consents import Consents
    from tests.support.fleet import Connected, Fleet
    from worker.consent import Exchanged
    from worker.runtime import Runtime


@pytest.fixture
def worker(start_worker: Callable[..., Runtime]) -> Runtime:
    return start_worker()


def reconnected(worker: Runtime, consents: Consents, connected: Connected) -> Exchanged:
    return exchange(worker.exchanger, consents.accepted(connected.id, connected.realm_id))


def authorization(fleet: Fleet, authorization_id: int) -> Any:
    return fleet.db.execute("SELECT * FROM qbo.authorizations WHERE id = %(id)s", {"id": authorization_id}).one()


def test_a_reconnect_puts_the_new_grant_over_the_old_one_without_revoking_it(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    # Fails without `token_version + 1`: seen (the trigger refuses the row).
    (connected,) = fleet.connect(label="Acme")
    result = reconnected(worker, consents, connected)
    assert (result.outcome, result.connection_id) == (Authorized.CONNECTED, connected.id)
    row = fleet.row(connected.id)
    assert (row.grant_number, row.token_version, row.status, row.label) == (2, 2, "active", "Acme")
    assert fleet.holds_the_live_token(connected)
    assert timedelta(hours=19) < row.due_in < timedelta(hours=27)
    assert [call.endpoint for call in fleet.simulator.journal()] == ["token"]
    place = fleet.place(connected.id, Field.ACCESS_TOKEN, grant_number=2)
    assert fleet.keyring.open(row.access_token, place).reveal()
    assert fleet.events(connected.id) == ["connection.reconnected"]
    assert fleet.outcomes(connected.id) == [("refreshed", None)]
    (attempt,) = fleet.attempts(connected.id)
    assert (attempt.trigger, attempt.posts, attempt.secret, attempt.token_version) == ("consent", 1, "current", 1)
    assert attempt.exposed_us is not None
    assert refresh(worker.refresher, connected.id, trigger=Trigger.CLI).reason == "not_claimed"


def test_who_presented_a_code_is_known_after_its_end(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    # Fails without `presented_by` in the claim, and without its CASE: seen.
    (connected,) = fleet.connect()
    ended = consents.accepted(connected.id, connected.realm_id)
    assert exchange(worker.exchanger, ended).outcome is Authorized.CONNECTED
    assert authorization(fleet, ended).presented_by == worker.refresher.worker
    left = consents.accepted(connected.id, connected.realm_id)
    fleet.db.execute(
        "UPDATE qbo.authorizations SET presented_at = now() - interval '2 minutes', presented_by = 'gone:1'"
        " WHERE id = %(id)s",
        {"id": left},
    )
    assert exchange(worker.exchanger, left).outcome is Authorized.LOST
    assert authorization(fleet, left).presented_by == "gone:1"


def test_what_was_known_of_the_old_grant_goes_with_it(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    fleet.update(
        connected.id,
        "status = 'needs_reauth', in_doubt = true, suspect_since = now(), needs_reauth_since = now(), failures = 7,"
        " not_before = now() + interval '1 hour', queued_until = now() + interval '1 hour', expiry_told_days = 30,"
        " second_writer_at = now(), known_fingerprint = 'x', last_secret = 'previous', last_reason = 'answer_lost',"
        " hard_expires_at = now() + interval '1 day', hard_expires_inferred = true, previous_refresh_token = 'x',"
        " previous_refresh_token_fingerprint = 'x', next_refresh_at = NULL",
    )
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) SELECT %(id)s, unnest(ARRAY['reauth', 'suspect'])",
        {"id": connected.id},
    )
    fleet.db.execute(
        "INSERT INTO qbo.candidates (connection_id, grant_number, base_version, source, refresh_token, fingerprint)"
        " VALUES (%(id)s, 1, 1, 'late_save', 'x', 'x')",
        {"id": connected.id},
    )
    assert reconnected(worker, consents, connected).outcome is Authorized.CONNECTED
    row = fleet.row(connected.id)
    assert (row.status, row.in_doubt, row.suspect_since, row.needs_reauth_since) == ("active", False, None, None)
    assert (row.failures, row.not_before, row.queued_until, row.expiry_told_days) == (0, None, None, None)
    assert (row.second_writer_at, row.last_reason) == (None, None)
    assert bytes(row.known_fingerprint) == bytes(row.refresh_token_fingerprint)
    assert (row.previous_refresh_token, row.previous_refresh_token_fingerprint) == (None, None)
    assert (row.hard_expires_at > row.refresh_expires_at, row.hard_expires_inferred) == (True, False)
    assert (fleet.candidates(connected.id), fleet.holds(connected.id)) == ([], set())
    assert fleet.events(connected.id) == ["connection.reconnected", "sync.resumed"]


def test_an_operators_hold_stays(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) SELECT %(id)s, unnest(ARRAY['reauth', 'operator'])",
        {"id": connected.id},
    )
    assert reconnected(worker, consents, connected).outcome is Authorized.CONNECTED
    assert fleet.holds(connected.id) == {"operator"}
    assert fleet.events(connected.id) == ["connection.reconnected"]


def test_a_first_connection_gets_its_name_label_and_grant(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    brought = consents.consent("external:acme-1", label="Acme")
    result = exchange(worker.exchanger, consents.accept(brought))
    assert result.outcome is Authorized.CONNECTED
    assert result.connection_id is not None
    row = fleet.row(result.connection_id)
    assert (row.grant_number, row.label, row.status) == (1, "Acme", "active")
    assert fleet.token(row.id) == fleet.simulator.state(brought.realm_id).refresh_token
    assert fleet.keyring.open(row.realm_id, realm_place("sandbox", row.id)).reveal() == brought.realm_id
    assert fleet.events(row.id) == [], "who asked for it hears of it"
    names = fleet.db.execute("SELECT external_id, connection_id FROM qbo.external_ids").all()
    assert [tuple(name) for name in names] == [("acme-1", row.id)]
    assert refresh(worker.refresher, row.id, trigger=Trigger.CLI).reason == "not_claimed"
    assert authorizing.outcome(database.database(), result.authorization_id)[0] == authorizing.Connected(row.id)


def test_a_first_connection_to_a_company_that_is_here_becomes_one_more_name_of_it(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    (connected,) = fleet.connect(label="Acme")
    result = exchange(worker.exchanger, consents.accepted("external:second", connected.realm_id, label="Other"))
    assert result.connection_id == connected.id
    assert fleet.holds_the_live_token(connected)
    assert fleet.row(connected.id).label == "Acme"
    (name,) = fleet.db.execute("SELECT * FROM qbo.external_ids").all()
    assert (name.external_id, name.connection_id) == ("second", connected.id)


@pytest.mark.parametrize("known", [True, False])
def test_another_company_than_the_expected_one_is_refused_before_its_code_is_presented(
    fleet: Fleet, consents: Consents, worker: Runtime, *, known: bool
) -> None:
    # Fails without `_is_another` in the claim: seen, the grant is stored.
    expected, other = fleet.connect(2)
    fleet.update(expected.id, "label = 'Acme'")
    fleet.update(other.id, "label = 'Other'")
    authorization_id = consents.accepted(expected.id, other.realm_id if known else None)
    result = exchange(worker.exchanger, authorization_id)
    assert (result.outcome, result.reason) == (Authorized.REFUSED, "wrong_realm")
    assert fleet.simulator.check().calls == 0
    assert [fleet.row(each.id).token_version for each in (expected, other)] == [1, 1]
    assert fleet.holds_the_live_token(other)
    row = authorization(fleet, authorization_id)
    assert (row.code, row.realm_id) == (None, None)
    with pytest.raises(WrongRealm) as raised:
        authorizing.outcome(database.database(), authorization_id)
    assert (raised.value.expected, raised.value.got) == ("Acme", "Other" if known else None)
    assert expected.realm_id not in str(raised.value)


def test_an_external_id_that_somebody_else_has_connected_meanwhile_is_guarded_too(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    first, second = (consents.accepted("external:acme-1") for _ in range(2))
    assert exchange(worker.exchanger, first).outcome is Authorized.CONNECTED
    assert exchange(worker.exchanger, second).reason == "wrong_realm"
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 1


def test_a_code_that_intuit_refuses_stores_nothing(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    fleet.simulator.fault("invalid_grant", count=1)
    result = exchange(worker.exchanger, authorization_id)
    assert (result.outcome, result.reason) == (Authorized.REFUSED, "invalid_grant")
    assert exchange(worker.exchanger, authorization_id) == result
    assert fleet.simulator.check().calls == 1
    assert fleet.holds_the_live_token(connected)
    with pytest.raises(ConsentFailed, match="start again") as raised:
        authorizing.outcome(database.database(), authorization_id)
    assert raised.value.reason == "invalid_grant"


def test_where_nothing_was_spent_the_code_is_presented_again(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    fleet.simulator.fault("throttled", count=1)
    waiting = exchange(worker.exchanger, authorization_id)
    assert (waiting.outcome, waiting.reason) == (None, "throttled")
    assert exchange(worker.exchanger, authorization_id) == waiting
    fleet.let_pass(timedelta(seconds=61))
    assert exchange(worker.exchanger, authorization_id).outcome is Authorized.CONNECTED
    assert fleet.holds_the_live_token(connected)


def test_the_previous_client_secret_exchanges_too(
    fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    worker = start_worker(INTUIT_CLIENT_SECRET="new", INTUIT_CLIENT_SECRET_PREVIOUS=fleet.simulator.client_secret)
    assert reconnected(worker, consents, connected).outcome is Authorized.CONNECTED
    assert fleet.attempts(connected.id)[0].secret == "previous"


def test_a_wrong_client_secret_is_waited_for_and_then_the_code_is_too_old(
    fleet: Fleet, consents: Consents, worker: Runtime, start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    wrong = start_worker(INTUIT_CLIENT_SECRET="wrong")
    assert exchange(wrong.exchanger, authorization_id).reason == "invalid_client"
    fleet.let_pass(timedelta(minutes=11))
    result = exchange(worker.exchanger, authorization_id)
    assert (result.outcome, result.reason) == (Authorized.REFUSED, "expired")


def test_a_frozen_fleet_exchanges_nothing(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    # Fails without the control row in the claim: seen. A copy of production must not replace production's grants.
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    result = exchange(worker.exchanger, authorization_id)
    assert (result.outcome, result.reason) == (None, "frozen")
    assert fleet.simulator.check().calls == 0


def test_what_was_sealed_with_other_keys_waits_for_a_worker_that_has_them(
    fleet: Fleet, consents: Consents, start_worker: Callable[..., Runtime]
) -> None:
    from qbo_refresh.sealing import new_key  # noqa: PLC0415  # of this test alone

    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    stranger = start_worker(TOKEN_KEYS=f"other:{new_key()}")
    assert exchange(stranger.exchanger, authorization_id).outcome is None
    assert fleet.events() == ["row.unreadable"]
    assert exchange(start_worker().exchanger, authorization_id).outcome is Authorized.CONNECTED


def test_a_verdict_of_the_old_grant_does_not_reach_the_new_one(
    fleet: Fleet, consents: Consents, worker: Runtime, one: Attempts
) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    assert reconnected(worker, consents, connected).outcome is Authorized.CONNECTED
    assert not one.conclude(claim, GrantRejected())
    row = fleet.row(connected.id)
    assert (row.status, row.lease_id) == ("active", None)
    assert fleet.outcomes(connected.id)[0] == ("abandoned", "overtaken")


def test_what_is_not_there_or_was_not_called_back_is_answered(
    fleet: Fleet, worker: Runtime, consents: Consents
) -> None:
    assert exchange(worker.exchanger, 10**12).reason == "unknown_authorization"
    consents.link("external:acme-1")
    (row,) = fleet.db.execute("SELECT id FROM qbo.authorizations").all()
    assert exchange(worker.exchanger, row.id).reason == "not_called_back"


def test_links_and_consents_of_long_ago_are_forgotten(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    (connected,) = fleet.connect()
    consents.link(connected.id)
    assert reconnected(worker, consents, connected).outcome is Authorized.CONNECTED
    unfinished = consents.accepted(connected.id, connected.realm_id)
    fleet.let_pass(timedelta(days=31))
    last = reconnected(worker, consents, connected)
    rows = fleet.db.execute("SELECT id FROM qbo.authorizations ORDER BY id").all()
    assert [row.id for row in rows] == [unfinished, last.authorization_id]


def test_a_consent_that_nobody_could_present_ends_with_its_code_and_is_in_nobodys_way(
    fleet: Fleet, consents: Consents, worker: Runtime, start_worker: Callable[..., Runtime]
) -> None:
    # Seen without their end: after three days the codes of all twenty were there, and the living one got no turn.
    from qbo_refresh.sealing import new_key  # noqa: PLC0415  # of this test alone

    (connected,) = fleet.connect()
    stranger = start_worker(TOKEN_KEYS=f"other:{new_key()}")
    nobodys = [consents.accepted(f"external:{number}") for number in range(20)]
    assert {exchange(stranger.exchanger, each).outcome for each in nobodys} == {None}
    fleet.let_pass(timedelta(minutes=9))
    stranger.ender.store.end_expired()
    assert stranger.ender.store.unfinished() == nobodys, "somebody may have the key, and the codes are good"
    fleet.let_pass(timedelta(minutes=2))
    living = consents.accepted(connected.id, connected.realm_id)
    stranger.ender.store.end_expired()
    ended = authorization(fleet, nobodys[0])
    assert (ended.outcome, ended.reason, ended.code, ended.realm_id) == ("refused", "expired", None, None)
    assert worker.ender.store.unfinished() == [living]


def test_a_code_that_may_be_spent_does_not_end_by_its_age(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    authorization_id = consents.accepted("external:acme-1")
    fleet.db.execute("UPDATE qbo.authorizations SET presented_at = now()")
    fleet.let_pass(timedelta(hours=2))
    worker.ender.store.end_expired()
    assert worker.ender.store.unfinished() == [authorization_id]


def test_consents_of_an_app_whose_secrets_are_elsewhere_are_left_to_others(
    consents: Consents, worker: Runtime, start_worker: Callable[..., Runtime]
) -> None:
    authorization_id = consents.accepted("external:acme-1")
    assert worker.ender.store.unfinished() == [authorization_id]
    assert start_worker(INTUIT_CLIENT_ID="another-app").ender.store.unfinished() == []


def test_row_14_a_throttled_exchange_pauses_the_whole_app_for_a_quarter_of_an_hour_at_most(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault("throttled", count=1, retry_after="31536000")
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    assert exchange(worker.exchanger, authorization_id).reason == "throttled"
    assert refresh(worker.refresher, connected.id, trigger=Trigger.SWEEP).outcome is Outcome.SKIPPED
    calls = fleet.simulator.check().calls
    fleet.let_pass(timedelta(minutes=9))
    assert exchange(worker.exchanger, authorization_id).reason == "throttled"
    another = consents.accepted("external:acme-1")
    assert exchange(worker.exchanger, another).reason == "throttled"
    assert fleet.simulator.check().calls == calls, "nobody posts while the app pauses"
    fleet.let_pass(timedelta(minutes=6, seconds=1))
    assert exchange(worker.exchanger, another).outcome is Authorized.CONNECTED


def test_row_20_a_client_secret_that_an_exchange_finds_refused_is_blocked_and_told_once(
    fleet: Fleet, consents: Consents, worker: Runtime, start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    wrong = start_worker(INTUIT_CLIENT_SECRET="wrong")
    for _ in range(3):
        assert exchange(wrong.exchanger, authorization_id).outcome is None
        fleet.let_pass(timedelta(seconds=25))
    assert fleet.simulator.check().calls == 2, "it is its own probe, every 45 s"
    assert refresh(wrong.refresher, connected.id, trigger=Trigger.SWEEP).reason in ("invalid_client", "not_claimed")
    assert fleet.events() == ["app.blocked"]
    fleet.let_pass(timedelta(minutes=1))
    assert exchange(worker.exchanger, authorization_id).outcome is Authorized.CONNECTED
    assert fleet.row(connected.id).status == "active"


def test_row_20_an_exchange_that_works_lifts_the_block_of_its_secret(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    (connected,) = fleet.connect()
    fleet.simulator.fault("invalid_client", count=1)
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    assert exchange(worker.exchanger, authorization_id).reason == "invalid_client"
    fleet.let_pass(timedelta(minutes=1))
    assert exchange(worker.exchanger, authorization_id).outcome is Authorized.CONNECTED
    assert fleet.events() == ["app.blocked", "app.unblocked"]
