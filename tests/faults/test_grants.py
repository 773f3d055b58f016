"""Row 21: reconnects, disconnects and deletions while something else is in flight, and what dies in between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from intuit_simulator import fingerprint
from qbo_refresh import authorizing, database
from qbo_refresh.errors import ConsentFailed
from qbo_refresh.secret import Secret
from qbo_refresh.status import Authorized, Ending, Outcome
from tests.support.seams import Killed, killed, with_seam
from tests.support.waiting import WAITING_FOR_LOCKS, wait_until
from worker.attempt import Trigger
from worker.ending import NotDeleted, delete, disconnect, revoke_due
from worker.exchange import Exchanger, exchange
from worker.refresh import refresh
from worker.store import authorizations

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tests.support.consents import Consents
    from tests.support.fleet import Connected, Fleet
    from worker.consent import Exchanged
    from worker.embedded import Servers
    from worker.refresh import Result
    from worker.runtime import Runtime

LEASE = timedelta(seconds=61)


@pytest.fixture
def worker(start_worker: Callable[..., Runtime]) -> Runtime:
    return start_worker()


@pytest.fixture
def second(start_worker: Callable[..., Runtime]) -> Runtime:
    return start_worker()


def sweep(worker: Runtime, connected: Connected) -> Result:
    return refresh(worker.refresher, connected.id, trigger=Trigger.SWEEP)


def revocations(fleet: Fleet) -> int:
    return int(fleet.db.execute("SELECT count(*) AS n FROM qbo.revocations").one().n)


def in_flight(
    fleet: Fleet, pool: ThreadPoolExecutor, call: Callable[[], object], kind: str = "freeze"
) -> Future[object]:
    """Begin a call that Intuit has processed, and whose answer waits until the faults are cleared."""
    fleet.simulator.fault(kind, rotate=True, count=1)
    begun = pool.submit(call)
    wait_until(fleet.simulator.in_flight)
    return begun


@pytest.mark.parametrize("policy", ["strict", "grace", "reuse-revokes"])
def test_row_21_a_refresh_in_flight_does_not_reach_the_new_grant(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime, policy: str
) -> None:
    # Fails without the version raised, and with candidates of any grant: seen.
    fleet.simulator.set_policy(policy)
    (connected,) = fleet.connect()
    with ThreadPoolExecutor(1) as pool:
        late = in_flight(fleet, pool, lambda: sweep(worker, connected))
        done = exchange(second.exchanger, consents.accepted(connected.id, connected.realm_id))
        assert done.outcome is Authorized.CONNECTED
        fleet.simulator.clear_faults()
        result = late.result()
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "overtaken")  # type: ignore[attr-defined]
    assert fleet.holds_the_live_token(connected)
    assert (fleet.candidates(connected.id), revocations(fleet)) == ([], 0)
    assert {call.endpoint for call in fleet.simulator.journal()} == {"token"}, "nothing is revoked"
    fleet.update(connected.id, "next_refresh_at = now()")
    assert sweep(worker, connected).outcome is Outcome.REFRESHED


def test_row_21_two_reconnects_at_once_end_with_the_one_that_lives(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Intuit processes the first one late. Fails without the other authorization's lease in the claim: seen, the row
    # holds the grant that Intuit has replaced.
    (connected,) = fleet.connect()
    first, other = (consents.accepted(connected.id, connected.realm_id) for _ in range(2))
    slow = fleet.simulator.fault("freeze", count=1, if_gone="process")
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(exchange, worker.exchanger, first)
        wait_until(fleet.simulator.in_flight)
        assert exchange(second.exchanger, other).outcome is None
        fleet.simulator.clear_fault(slow)
        assert early.result().outcome is Authorized.CONNECTED
    assert exchange(second.exchanger, other).outcome is Authorized.CONNECTED
    assert fleet.holds_the_live_token(connected)
    assert fleet.row(connected.id).grant_number == 3
    assert fleet.events(connected.id) == ["connection.reconnected"] * 2


@pytest.mark.parametrize("first_connection", [False, True])
def test_row_21_many_at_once_end_with_the_grant_that_lives(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime, *, first_connection: bool
) -> None:
    (connected,) = fleet.connect()
    realm = "9130359999999999" if first_connection else connected.realm_id
    names = [f"external:{number}" if first_connection else connected.id for number in range(6)]
    accepted = [consents.accepted(name, realm) for name in names]

    def until_done(worker: Runtime, authorization_id: int) -> Exchanged:
        return wait_until(lambda: (found := exchange(worker.exchanger, authorization_id)).outcome and found)  # type: ignore[return-value]

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(until_done, [worker, second] * 3, accepted))
    assert {each.outcome for each in done} == {Authorized.CONNECTED}
    (connection_id,) = {each.connection_id for each in done}
    assert connection_id is not None
    assert fleet.token(connection_id) == fleet.simulator.state(realm).refresh_token
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.external_ids").one().n == 6 * first_connection


def dying(worker: Runtime, port: str, method: str, when: str) -> Exchanger:
    """Return an exchange that is killed at a point."""
    seam = {"before": killed} if when == "before" else {"after": killed}
    if method in ("claim", "install", "callback"):
        return with_seam(worker.exchanger, port, method, **seam)  # type: ignore[arg-type]
    return replace(worker.exchanger, refresher=with_seam(worker.refresher, port, method, **seam))  # type: ignore[arg-type]


CONNECTED = [
    ("store", "callback", "after"),
    ("store", "claim", "before"),
    ("escrow", "put", "after"),
    ("store", "install", "before"),
    ("store", "install", "after"),
    ("escrow", "settle", "before"),
    ("escrow", "settle", "after"),
]
LOST = [("store", "claim", "after"), ("intuit", "exchange", "before"), ("intuit", "exchange", "after")]


@pytest.mark.parametrize("point", CONNECTED + LOST, ids="-".join)
@pytest.mark.parametrize("first_connection", [False, True])
def test_row_21_an_exchange_that_dies_anywhere_is_taken_up_and_its_code_presented_once(
    fleet: Fleet,
    consents: Consents,
    worker: Runtime,
    second: Runtime,
    *,
    first_connection: bool,
    point: tuple[str, str, str],
) -> None:
    # Fails without `presented_at` in the claim (twice presented) and without `escrow.find` in `_recover`: seen.
    (connected,) = fleet.connect()
    name = "external:acme-1" if first_connection else connected.id
    brought = consents.consent(name, None if first_connection else connected.realm_id)
    authorization_id = consents.accept(brought)
    with pytest.raises(Killed):
        exchange(dying(worker, *point), authorization_id)
    fleet.let_pass(LEASE)
    for left in second.ender.store.unfinished():
        exchange(second.exchanger, left)
    assert second.ender.store.unfinished() == []
    calls = [call for call in fleet.simulator.journal() if call.grant_type == "authorization_code"]
    assert len(calls) <= 1
    if point in LOST:
        with pytest.raises(ConsentFailed) as raised:
            authorizing.outcome(database.database(), authorization_id)
        assert raised.value.reason == "answer_lost"
        assert fleet.row(connected.id).token_version == 1
        again = consents.accepted(name, brought.realm_id)
        assert exchange(second.exchanger, again).outcome is Authorized.CONNECTED
    found = second.ender.store.standing(authorization_id)
    row = fleet.db.execute("SELECT id FROM qbo.connections ORDER BY id DESC LIMIT 1").one()
    assert found.outcome is (Authorized.LOST if point in LOST else Authorized.CONNECTED)
    assert fleet.token(row.id) == fleet.simulator.state(brought.realm_id).refresh_token
    rescued = point[1] in ("put", "install") and point != ("store", "install", "after")
    # A first connection's company was proven with an access token: the token from the escrow was refreshed for it.
    refreshed = rescued and first_connection
    assert fleet.simulator.check().refreshes == refreshed
    assert (fleet.row(row.id).access_token is None) == (rescued and not refreshed)
    assert fleet.row(row.id).due_in < timedelta(0) if rescued and not refreshed else True


def test_row_21_a_consent_that_was_taken_up_late_does_not_go_over_a_later_one(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Fails without `superseded` in `install`: seen, the row holds the grant that Intuit has replaced.
    (connected,) = fleet.connect()
    first, other = (consents.accepted(connected.id, connected.realm_id) for _ in range(2))
    with pytest.raises(Killed):
        exchange(dying(worker, "escrow", "put", "after"), first)
    fleet.let_pass(LEASE)
    assert exchange(second.exchanger, other).outcome is Authorized.CONNECTED
    late = exchange(second.exchanger, first)
    assert (late.outcome, late.reason, late.connection_id) == (Authorized.CONNECTED, "superseded", connected.id)
    assert fleet.holds_the_live_token(connected)
    assert fleet.row(connected.id).grant_number == 2


def test_row_21_a_worker_that_wakes_with_a_grant_in_hand_saves_it_though_it_was_given_up(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)

    def others_give_up() -> None:
        fleet.let_pass(LEASE)
        assert exchange(second.exchanger, authorization_id).outcome is Authorized.LOST

    slow = replace(worker.exchanger, refresher=with_seam(worker.refresher, "intuit", "exchange", after=others_give_up))
    assert exchange(slow, authorization_id).outcome is Authorized.CONNECTED
    assert fleet.holds_the_live_token(connected)


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"kind": "drop", "rotate": True, "reset": True}, Authorized.LOST),
        ({"kind": "answer", "rotate": True, "status": 500}, Authorized.LOST),
        ({"kind": "html"}, Authorized.LOST),
        ({"kind": "cut", "after_bytes": 20}, Authorized.LOST),
        ({"kind": "override", "remove": ["access_token"]}, Authorized.CONNECTED),
        (
            {"kind": "override", "fields": {"expires_in": "-1", "x_refresh_token_expires_in": 1e12}},
            Authorized.CONNECTED,
        ),
    ],
)
def test_row_8_and_11_a_lost_or_broken_answer_to_a_code_is_said_so_or_rescued(
    fleet: Fleet, consents: Consents, worker: Runtime, fault: dict[str, Any], outcome: Authorized
) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    fleet.simulator.fault(count=1, **fault)
    assert exchange(worker.exchanger, authorization_id).outcome is outcome
    fleet.let_pass(LEASE)
    assert exchange(worker.exchanger, authorization_id).outcome is outcome
    assert fleet.simulator.check().calls == 1
    if outcome is Authorized.CONNECTED:
        assert fleet.holds_the_live_token(connected)
    else:
        assert fleet.row(connected.id).token_version == 1


def test_row_21_a_disconnect_overtakes_a_refresh_in_flight(fleet: Fleet, worker: Runtime, second: Runtime) -> None:
    (connected,) = fleet.connect()
    with ThreadPoolExecutor(1) as pool:
        late = in_flight(fleet, pool, lambda: sweep(worker, connected))
        ended = disconnect(second.ender, connected.id)
        assert (ended.outcome, ended.revoked) == (Ending.DISCONNECTED, False), "the attempt presents the token just now"
        fleet.simulator.clear_faults()
        assert late.result().reason == "disconnected"  # type: ignore[attr-defined]
    row = fleet.row(connected.id)
    assert (row.status, row.refresh_token, row.access_token) == ("disconnected", None, None)
    fleet.let_pass(LEASE)
    assert revoke_due(second.ender) == 2
    assert (fleet.state(connected).alive, revocations(fleet)) == (False, 0)


def test_row_21_a_token_that_comes_after_a_disconnect_does_not_end_the_grant_of_a_consent_on_its_way(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # The simulator ends the newer grant with the older one. Fails if the late attempt revokes its token itself: seen.
    (connected,) = fleet.connect()
    with ThreadPoolExecutor(1) as pool:
        late = in_flight(fleet, pool, lambda: sweep(worker, connected))
        disconnect(second.ender, connected.id)
        authorization_id = consents.accepted(connected.id, connected.realm_id)

        def the_late_one_ends() -> None:
            fleet.simulator.clear_faults()
            assert late.result().reason == "disconnected"  # type: ignore[attr-defined]

        between = with_seam(second.refresher, "intuit", "exchange", after=the_late_one_ends)
        done = exchange(replace(second.exchanger, refresher=between), authorization_id)
    assert done.outcome is Authorized.CONNECTED
    fleet.let_pass(LEASE)
    revoke_due(second.ender)
    assert fleet.holds_the_live_token(connected)


def test_row_21_what_a_killed_refresh_has_left_in_the_escrow_is_revoked_too(
    fleet: Fleet, worker: Runtime, second: Runtime
) -> None:
    # Fails without `escrow.find` in `_tokens`, and with a revocation that does not wait for the lease: seen.
    (connected,) = fleet.connect()

    def end_it() -> None:
        disconnect(second.ender, connected.id)

    killed_later = with_seam(worker.refresher, "escrow", "put", after=killed)
    with pytest.raises(Killed):
        refresh(with_seam(killed_later, "intuit", "refresh", after=end_it), connected.id, trigger=Trigger.SWEEP)
    token = fleet.state(connected).refresh_token
    fleet.let_pass(LEASE)
    revoke_due(second.ender)
    told = [call.presented for call in fleet.simulator.journal() if call.endpoint == "revoke"]
    assert fingerprint(token) in told
    assert revocations(fleet) == 0


def test_row_21_a_disconnect_overtakes_a_consent_in_flight_and_ends_it(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Fails without `end_all`: seen, the dead connection is revived.
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    with ThreadPoolExecutor(1) as pool:
        late = in_flight(fleet, pool, lambda: exchange(worker.exchanger, authorization_id))
        assert disconnect(second.ender, connected.id).outcome is Ending.DISCONNECTED
        fleet.simulator.clear_faults()
        result = late.result()
    assert (result.outcome, result.reason) == (Authorized.REFUSED, "disconnected")  # type: ignore[attr-defined]
    row = fleet.row(connected.id)
    assert (row.status, row.refresh_token) == ("disconnected", None)
    fleet.let_pass(LEASE)
    revoke_due(second.ender)
    assert (fleet.state(connected).alive, revocations(fleet)) == (False, 0)


def test_row_21_a_disconnect_that_dies_before_it_has_told_intuit_is_finished_by_the_sweep(
    fleet: Fleet, worker: Runtime, second: Runtime
) -> None:
    # Fails with a revocation that is no row: seen, a live token is left at Intuit.
    (connected,) = fleet.connect()
    ender = replace(worker.ender, refresher=with_seam(worker.refresher, "intuit", "revoke", before=killed))
    with pytest.raises(Killed):
        disconnect(ender, connected.id)
    assert fleet.row(connected.id).refresh_token is None
    assert not second.ender.store.anything_left(), "the dead one's lease"
    fleet.let_pass(LEASE)
    assert second.ender.store.anything_left()
    assert revoke_due(second.ender) == 1
    assert (fleet.state(connected).alive, revocations(fleet)) == (False, 0)


@pytest.mark.parametrize("first_connection", [False, True])
def test_row_21_what_waits_to_be_revoked_does_not_end_the_grant_of_a_later_consent(
    fleet: Fleet, consents: Consents, worker: Runtime, *, first_connection: bool
) -> None:
    # The simulator ends the newer grant with the older one, as has been reported of Intuit. Fails without
    # `drop_superseded` and with revocations that do not wait for a consent: seen.
    (connected,) = fleet.connect()
    fleet.simulator.fault("unavailable", endpoint="revoke")
    assert disconnect(worker.ender, connected.id).revoked is False
    brought = consents.consent("external:new" if first_connection else connected.id, connected.realm_id)
    fleet.simulator.clear_faults()
    fleet.let_pass(timedelta(minutes=2))
    if not first_connection:
        assert revoke_due(worker.ender) == 0, "a person may be consenting just now"
    authorization_id = consents.accept(brought)
    assert exchange(worker.exchanger, authorization_id).outcome is Authorized.CONNECTED
    assert revocations(fleet) == 0
    fleet.let_pass(timedelta(hours=2))
    assert revoke_due(worker.ender) == 0
    assert fleet.holds_the_live_token(connected)
    assert fleet.holds(connected.id) == set()
    assert fleet.events(connected.id) == [
        "connection.disconnected",
        "sync.paused",
        "connection.reconnected",
        "sync.resumed",
    ]


def test_row_21_a_consent_waits_for_a_revocation_under_way(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Fails without the revocation's lease in the claim: seen, the new grant is dead.
    (connected,) = fleet.connect()
    slow = fleet.simulator.fault("freeze", endpoint="revoke", count=1, if_gone="process")
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(disconnect, worker.ender, connected.id)
        wait_until(fleet.simulator.in_flight)
        authorization_id = consents.accepted(connected.id, connected.realm_id)
        assert exchange(second.exchanger, authorization_id).outcome is None
        fleet.simulator.clear_fault(slow)
        assert ended.result().revoked
    assert exchange(second.exchanger, authorization_id).outcome is Authorized.CONNECTED
    assert fleet.holds_the_live_token(connected)


def test_row_21_what_is_in_flight_is_not_deleted_and_nothing_is_left_after_it(
    fleet: Fleet, worker: Runtime, second: Runtime
) -> None:
    (connected,) = fleet.connect()
    with ThreadPoolExecutor(1) as pool:
        late = in_flight(fleet, pool, lambda: sweep(worker, connected))
        with pytest.raises(NotDeleted, match="An attempt is under way"):
            delete(second.ender, second.escrow, connected.id, keep_grant=False)
        assert fleet.row(connected.id).status == "active"
        fleet.simulator.clear_faults()
        assert late.result().outcome is Outcome.REFRESHED  # type: ignore[attr-defined]
    delete(second.ender, second.escrow, connected.id, keep_grant=False)
    assert not fleet.state(connected).alive
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 0


def test_row_21_an_attempt_that_claims_while_a_connection_is_being_deleted_is_not_overtaken(
    fleet: Fleet, database_url: str, second: Runtime
) -> None:
    # Fails if what is in flight is looked for before the row is locked: seen.
    (connected,) = fleet.connect()
    with psycopg.connect(database_url) as claimer, ThreadPoolExecutor(1) as pool:
        claimer.execute(
            "UPDATE qbo.connections SET lease_id = %s, leased_until = now() + interval '1 minute' WHERE id = %s",
            [uuid4(), connected.id],
        )
        deleted = pool.submit(delete, second.ender, second.escrow, connected.id, keep_grant=True)
        wait_until(lambda: fleet.db.execute(WAITING_FOR_LOCKS).all())
        claimer.commit()
        with pytest.raises(NotDeleted, match="under way"):
            deleted.result()
    assert fleet.row(connected.id).status == "active"


def test_row_21_a_consent_given_up_and_then_disconnected_is_not_revived_by_a_worker_that_wakes(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Fails if a disconnect ends only the consents that are not finished: seen.
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)

    def others_end_it() -> None:
        fleet.let_pass(LEASE)
        assert exchange(second.exchanger, authorization_id).outcome is Authorized.LOST
        assert disconnect(second.ender, connected.id).outcome is Ending.DISCONNECTED

    slow = replace(worker.exchanger, refresher=with_seam(worker.refresher, "intuit", "exchange", after=others_end_it))
    assert exchange(slow, authorization_id).reason == "disconnected"
    assert fleet.row(connected.id).status == "disconnected"
    revoke_due(second.ender)
    assert (fleet.state(connected).alive, revocations(fleet)) == (False, 0)


def test_row_21_what_a_dead_exchange_left_of_a_consent_that_a_disconnect_has_ended_is_revoked(
    fleet: Fleet, consents: Consents, worker: Runtime, start_worker: Callable[..., Runtime]
) -> None:
    # Fails without `revocations.add_consents`: seen, a live token stays in the escrow. Found by the machine.
    second, blind = start_worker(), start_worker(REDIS_URL="redis://127.0.0.1:1/0")
    (connected,) = fleet.connect()
    disconnect(second.ender, connected.id)
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    with pytest.raises(Killed):
        exchange(dying(worker, "escrow", "put", "after"), authorization_id)
    assert disconnect(second.ender, connected.id).reason == "disconnected"
    assert not second.ender.store.anything_left(), "the dead one's lease"
    assert exchange(second.exchanger, authorization_id).reason == "disconnected"
    fleet.let_pass(LEASE)
    revoke_due(blind.ender)
    assert revocations(fleet) > 0, "an escrow that does not answer is no empty one"
    fleet.let_pass(timedelta(minutes=2))
    assert second.ender.store.anything_left()
    revoke_due(second.ender)
    assert (fleet.state(connected).alive, revocations(fleet)) == (False, 0)


def test_row_21_a_connection_that_another_system_has_now_keeps_what_a_dead_exchange_left(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Fails if its consents are ended as by a disconnect: seen, a sweep before the deletion revokes the grant.
    (connected,) = fleet.connect()
    disconnect(second.ender, connected.id)
    with pytest.raises(Killed):
        exchange(dying(worker, "escrow", "put", "after"), consents.accepted(connected.id, connected.realm_id))
    fleet.let_pass(LEASE)
    second.ender.store.disconnect(connected.id, revoke=False, to_delete=True)
    revoke_due(second.ender)
    assert fleet.state(connected).alive
    delete(second.ender, second.escrow, connected.id, keep_grant=True)
    assert fleet.state(connected).alive


def test_row_21_a_refresh_that_dies_with_the_token_of_an_ended_connection_leaves_it_to_be_revoked(
    fleet: Fleet, worker: Runtime, second: Runtime
) -> None:
    # Fails without the row that `_save_fully` adds: seen.
    (connected,) = fleet.connect()

    def end_it() -> None:
        disconnect(second.ender, connected.id)
        fleet.db.execute("DELETE FROM qbo.revocations")  # as if they had been told already

    by = with_seam(with_seam(worker.refresher, "intuit", "refresh", after=end_it), "store", "save", after=killed)
    with pytest.raises(Killed):
        refresh(by, connected.id, trigger=Trigger.SWEEP)
    assert fleet.state(connected).alive
    fleet.let_pass(LEASE)
    assert revoke_due(second.ender) == 1
    assert not fleet.state(connected).alive


def test_row_4_a_consent_is_not_given_up_while_the_escrow_is_away(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime, session_servers: Servers
) -> None:
    # Fails if an escrow that does not answer counts as an empty one: seen.
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    with pytest.raises(Killed):
        exchange(dying(worker, "escrow", "put", "after"), authorization_id)
    fleet.let_pass(LEASE)
    session_servers.stop_valkey()
    try:
        waiting = exchange(second.exchanger, authorization_id)
    finally:
        session_servers.start_valkey()
    assert (waiting.outcome, waiting.reason) == (None, "escrow_unavailable")
    fleet.let_pass(timedelta(minutes=2))
    assert exchange(second.exchanger, authorization_id).outcome is Authorized.CONNECTED
    assert fleet.holds_the_live_token(connected)


def test_row_23_a_grant_received_while_postgresql_is_away_is_saved_when_it_is_back(
    fleet: Fleet, consents: Consents, worker: Runtime, session_servers: Servers
) -> None:
    (connected,) = fleet.connect()
    authorization_id = consents.accepted(connected.id, connected.realm_id)
    by = replace(
        worker.exchanger,
        refresher=with_seam(worker.refresher, "intuit", "exchange", after=session_servers.stop_postgres),
    )
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(exchange, by, authorization_id)
        wait_until(lambda: worker.db.is_struggling)
        session_servers.start_postgres()
        assert done.result().outcome is Authorized.CONNECTED
    fleet.db.drop_connection()
    assert fleet.holds_the_live_token(connected)


def test_row_21_two_companies_under_one_new_name_at_once_leave_the_name_to_the_first(
    fleet: Fleet, consents: Consents, worker: Runtime, second: Runtime
) -> None:
    # Fails without `_is_another` in `install`: seen. The grant that is not stored is not revoked either.
    first, other = (consents.consent("external:acme-1") for _ in range(2))
    other_id = consents.accept(other)

    def others_are_faster() -> None:
        assert exchange(second.exchanger, other_id).outcome is Authorized.CONNECTED

    slow = replace(
        worker.exchanger, refresher=with_seam(worker.refresher, "intuit", "exchange", after=others_are_faster)
    )
    result = exchange(slow, consents.accept(first))
    assert (result.outcome, result.reason) == (Authorized.REFUSED, "wrong_realm")
    assert fleet.db.execute("SELECT count(*) AS n FROM qbo.connections").one().n == 1
    assert [fleet.simulator.state(each.realm_id).alive for each in (first, other)] == [True, True]
    assert revocations(fleet) == 0


def test_row_21_two_claims_of_one_company_take_turns(fleet: Fleet, consents: Consents, worker: Runtime) -> None:
    # Fails without the lock by the realm's hash: seen, both are leased.
    (connected,) = fleet.connect()
    first, other = (consents.accepted(connected.id, connected.realm_id) for _ in range(2))
    realm_hash = fleet.lookup.realm_hash(Secret(connected.realm_id))
    mine = {"id": first, "lease": uuid4(), "lasts": LEASE, "realm_hash": realm_hash, "worker": "a test"}
    called = worker.exchanger.store.callback(other)
    assert called is not None
    with ThreadPoolExecutor(1) as pool:
        with fleet.db.transaction():
            fleet.db.execute(authorizations._LOCK_REALM, mine)  # noqa: SLF001  # the two statements, a moment apart
            assert fleet.db.execute(authorizations._CLAIM, mine).one_or_none() is not None  # noqa: SLF001  # as above
            waiting = pool.submit(worker.exchanger.store.claim, called, lease_id=uuid4(), realm_hash=realm_hash)
            with pytest.raises(FutureTimeout):
                waiting.result(0.5)
        assert waiting.result() is None
