"""An attack: `realmId` comes from the browser's query, and whoever connects for the first time may have edited it."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from qbo_refresh import authorizing, database
from qbo_refresh.errors import ConsentFailed
from qbo_refresh.status import Authorized
from tests.support.seams import Killed, killed, with_seam
from worker.exchange import Exchanger, exchange

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime

LEASE = timedelta(seconds=61)
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def worker(start_worker: Callable[..., Runtime]) -> Runtime:
    return start_worker()


@pytest.fixture
def blind(start_worker: Callable[..., Runtime]) -> Runtime:
    """Give a worker that cannot reach QuickBooks' API."""
    return start_worker(INTUIT_API_URL=NOWHERE)


def edited(consents: Consents, realm_id: str) -> int:
    """Consent to a company of one's own, and say that it is another."""
    brought = consents.consent("external:attacker")
    return consents.accept(replace(brought, realm_id=realm_id))


def names(fleet: Fleet) -> list[str]:
    return [row.external_id for row in fleet.db.execute("SELECT external_id FROM qbo.external_ids ORDER BY 1")]


def test_an_edited_realm_does_not_attach_a_name_to_a_strangers_connection(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    # Succeeds without `_is_of_company`: seen, the attacker's name is the stranger's, under a grant that does not fit.
    (stranger,) = fleet.connect()
    authorization_id = edited(consents, stranger.realm_id)
    result = exchange(worker.exchanger, authorization_id)
    assert (result.outcome, result.reason, result.connection_id) == (Authorized.REFUSED, "wrong_company", None)
    assert names(fleet) == []
    assert fleet.row(stranger.id).token_version == 1
    assert fleet.holds_the_live_token(stranger)
    assert {call.endpoint for call in fleet.simulator.journal()} == {"token"}, "nothing is revoked"
    with pytest.raises(ConsentFailed) as raised:
        authorizing.outcome(database.database(), authorization_id)
    assert raised.value.reason == "wrong_company"


def test_an_edited_realm_does_not_wait_for_a_stranger_who_is_yet_to_come(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    # Succeeds if only existing connections are guarded: seen, the stranger's consent later goes under both names.
    fleet.simulator.create_grant("9130359999999999")
    assert exchange(worker.exchanger, edited(consents, "9130359999999999")).reason == "wrong_company"
    assert exchange(worker.exchanger, edited(consents, "..")).reason == "wrong_company"
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 0
    honest = exchange(worker.exchanger, consents.accepted("external:stranger", "9130359999999999"))
    assert honest.outcome is Authorized.CONNECTED
    assert names(fleet) == ["stranger"]


@pytest.mark.parametrize("known", [True, False])
def test_while_the_company_cannot_be_proven_nothing_is_attached_and_nothing_is_lost(
    fleet: Fleet, consents: Consents, worker: Runtime, blind: Runtime, *, known: bool
) -> None:
    (connected,) = fleet.connect()
    brought = consents.consent("external:second", connected.realm_id if known else None)
    authorization_id = consents.accept(brought)
    waiting = exchange(blind.exchanger, authorization_id)
    assert (waiting.outcome, waiting.reason) == (None, "company_unproven")
    fleet.let_pass(LEASE)
    assert exchange(blind.exchanger, authorization_id).reason == "company_unproven"
    assert names(fleet) == []
    fleet.let_pass(LEASE)
    result = exchange(worker.exchanger, authorization_id)
    assert result.outcome is Authorized.CONNECTED
    assert result.connection_id is not None
    assert (result.connection_id == connected.id) == known
    assert fleet.token(result.connection_id) == fleet.simulator.state(brought.realm_id).refresh_token
    found = fleet.simulator.check()
    assert (found.exchanges, found.refreshes, found.superseded) == (1, 2, 0)


def test_a_company_that_is_not_proven_within_a_day_is_given_up(
    fleet: Fleet, consents: Consents, blind: Runtime
) -> None:
    authorization_id = edited(consents, "9130359999999999")
    exchange(blind.exchanger, authorization_id)
    fleet.let_pass(timedelta(days=1, minutes=2))
    result = exchange(blind.exchanger, authorization_id)
    assert (result.outcome, result.reason) == (Authorized.LOST, "company_unproven")


def test_a_reconnect_needs_no_proof(fleet: Fleet, consents: Consents, blind: Runtime) -> None:
    (connected,) = fleet.connect()
    assert exchange(blind.exchanger, consents.accepted(connected.id, connected.realm_id)).outcome == "connected"
    assert fleet.holds_the_live_token(connected)


@pytest.mark.parametrize("attacks", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_that_dies_during_the_proof_loses_no_grant_and_lets_no_attack_through(
    fleet: Fleet, consents: Consents, worker: Runtime, *, attacks: bool, when: Literal["before", "after"]
) -> None:
    # Fails if what is recovered is installed without the proof: seen, the attack succeeds by a crash.
    (stranger,) = fleet.connect()
    brought = consents.consent("external:second")
    authorization_id = consents.accept(replace(brought, realm_id=stranger.realm_id) if attacks else brought)
    by = with_seam(worker.refresher, "intuit", "is_of_company", **{when: killed})
    with pytest.raises(Killed):
        exchange(Exchanger(worker.exchanger.store, by), authorization_id)
    fleet.let_pass(LEASE)
    result = exchange(worker.exchanger, authorization_id)
    if attacks:
        assert (result.outcome, result.reason) == (Authorized.REFUSED, "wrong_company")
        assert fleet.holds_the_live_token(stranger)
    else:
        assert result.outcome is Authorized.CONNECTED
        assert result.connection_id is not None
        assert fleet.token(result.connection_id) == fleet.simulator.state(brought.realm_id).refresh_token


def test_a_salvaged_token_of_a_first_connection_is_refreshed_for_the_proof(
    fleet: Fleet, consents: Consents, worker: Runtime
) -> None:
    brought = consents.consent("external:second")
    authorization_id = consents.accept(brought)
    fleet.simulator.fault("override", count=1, remove=["access_token"])
    assert exchange(worker.exchanger, authorization_id).reason == "company_unproven"
    fleet.let_pass(LEASE)
    result = exchange(worker.exchanger, authorization_id)
    assert result.connection_id is not None
    assert fleet.token(result.connection_id) == fleet.simulator.state(brought.realm_id).refresh_token


def test_the_realm_is_in_no_log_line(
    consents: Consents, worker: Runtime, blind: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    # Fails without the level of urllib3.connectionpool in worker/intuit/transport.py: seen, it writes the path.
    caplog.set_level(logging.DEBUG)
    for name, one in (("external:acme", worker), ("external:other", blind)):
        brought = consents.consent(name)
        exchange(one.exchanger, consents.accept(brought))
        assert brought.realm_id not in caplog.text
    assert "connected" in caplog.text
    assert "company_unproven" in caplog.text
