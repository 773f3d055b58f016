from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError

from qbo_refresh.status import Outcome
from tests.support.attempts import FORCED
from tests.support.seams import with_seam
from tests.support.waiting import wait_until
from worker.attempt import Claim, Trigger
from worker.ending import revoke_due
from worker.refresh import Refresher, Result, refresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.fleet import Connected, Fleet
    from worker.runtime import Runtime

LEASE = timedelta(seconds=61)
SHORT = {"LEASE_SECONDS": "3"}


def sweep(by: Refresher, connected: Connected) -> Result:
    return refresh(by, connected.id, trigger=Trigger.SWEEP)


class FrozenAfterTheClaim:
    """A store whose process is stopped for a while right after each claim."""

    def __init__(self, store: Any, seconds: float) -> None:
        self._store, self._seconds = store, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def claim(self, *args: Any, **kwargs: Any) -> Claim | None:
        """Give the claim as it looks after the freeze: opened so much longer ago."""
        claim: Claim | None = self._store.claim(*args, **kwargs)
        return None if claim is None else replace(claim, opened_at=claim.opened_at - self._seconds)


@pytest.mark.parametrize(("frozen_s", "sent"), [(34.9, True), (35.1, False), (59, False), (3600, False)])
def test_row_6_a_process_that_was_frozen_does_not_send_into_the_end_of_its_lease(
    fleet: Fleet, refresher: Refresher, frozen_s: float, *, sent: bool
) -> None:
    # Fails without `before_first_byte` in the transport: seen.
    (connected,) = fleet.connect()
    store: Any = FrozenAfterTheClaim(refresher.store, frozen_s)
    result = sweep(replace(refresher, store=store), connected)
    assert fleet.simulator.check().calls == int(sent)
    if not sent:
        assert (result.outcome, result.reason) == (Outcome.DEFERRED, "lease_spent")
        row = fleet.row(connected.id)
        assert (row.lease_id, row.in_doubt, row.failures) == (None, False, 0)
        assert fleet.attempts(connected.id)[0].posts == 0
        assert sweep(refresher, connected).outcome is Outcome.REFRESHED


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give a port that takes connections and never says a word: a TLS handshake that does not end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def full_port() -> Iterator[int]:
    """Give a port that takes no connection: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        port = listening.getsockname()[1]
        waiting = []
        for _ in range(3):
            each = socket.socket()
            each.settimeout(0)
            each.connect_ex(("127.0.0.1", port))
            waiting.append(each)
        yield port
        for each in waiting:
            each.close()


@pytest.mark.parametrize(("fixture", "scheme"), [("silent_port", "https"), ("full_port", "http")])
def test_row_6_a_connect_or_handshake_that_takes_too_long_is_given_up_with_nothing_sent(
    fleet: Fleet, start_worker: Callable[..., Runtime], request: pytest.FixtureRequest, fixture: str, scheme: str
) -> None:
    (connected,) = fleet.connect()
    url = f"{scheme}://127.0.0.1:{request.getfixturevalue(fixture)}/token"
    began = time.monotonic()
    result = sweep(start_worker(INTUIT_TOKEN_URL=url, **SHORT).refresher, connected)
    assert time.monotonic() - began < 2.5, "a deadline of 1 s"
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unreachable")
    row = fleet.row(connected.id)
    assert (row.lease_id, row.in_doubt) == (None, False)
    assert timedelta(seconds=50) < row.wait < timedelta(seconds=80)


def test_row_6_a_slow_refusal_of_the_first_secret_leaves_no_time_for_the_second(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    # Of a lease of 3 s, 1.75 s are for beginning a post. Fails with a gate that opens anew for each post: seen.
    (connected,) = fleet.connect()
    fleet.simulator.fault("latency", delay=0.9)
    worker = start_worker(
        INTUIT_CLIENT_SECRET="new", INTUIT_CLIENT_SECRET_PREVIOUS=fleet.simulator.client_secret, **SHORT
    )
    store: Any = FrozenAfterTheClaim(worker.refresher.store, 1.0)
    result = sweep(replace(worker.refresher, store=store), connected)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "lease_spent")
    assert [call.status for call in fleet.simulator.journal()] == [401]


@pytest.mark.parametrize("policy", ["grace", "strict"])
def test_row_7_an_answer_that_comes_after_the_lease_was_taken_over_costs_no_token(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher, policy: str
) -> None:
    fleet.simulator.set_policy(policy)
    (connected,) = fleet.connect()
    frozen = fleet.simulator.fault("freeze", rotate=True, count=1)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(sweep, refresher, connected)
        wait_until(fleet.simulator.in_flight)
        fleet.let_pass(LEASE)
        # As far as the tables know the first worker is dead; no second call may begin while its call is open, so the
        # simulator is left alone until the answer is on its way.
        fleet.simulator.clear_fault(frozen)
        assert late.result().outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    fleet.update(connected.id, "next_refresh_at = now()")
    assert sweep(second_refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


def test_row_7_a_process_frozen_between_answer_and_save_does_not_overwrite_the_newer_token(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher
) -> None:
    # Fails without the comparison of token_version in the save: seen, the row holds a dead token.
    fleet.simulator.set_policy("grace")
    (connected,) = fleet.connect()

    def others_go_on() -> None:
        fleet.let_pass(LEASE)
        # The escrow forgot: so the second worker presents the row's token and gets another one.
        assert sweep(second_refresher, connected).outcome is Outcome.REFRESHED

    result = sweep(with_seam(refresher, "intuit", "refresh", after=others_go_on), connected)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "overtaken")
    assert fleet.holds_the_live_token(connected)
    (candidate,) = fleet.candidates(connected.id)
    assert (candidate.source, candidate.base_version) == ("late_save", 1)
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


@pytest.mark.parametrize("after", [timedelta(0), timedelta(hours=25)], ids=["at once", "once the grace is over"])
def test_row_17_a_loser_who_posts_second_holds_the_live_token_and_it_is_found(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher, after: timedelta
) -> None:
    # Fails without the candidate of a late save, once the provider no longer honours the row's: seen, a suspect.
    fleet.simulator.set_policy("grace")
    (connected,) = fleet.connect()

    def others_go_first() -> None:
        fleet.let_pass(LEASE)
        assert sweep(second_refresher, connected).outcome is Outcome.REFRESHED

    result = sweep(with_seam(refresher, "intuit", "refresh", before=others_go_first), connected)
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "overtaken")
    assert fleet.simulator.check().refreshes == 2, "the old token was honoured a second time"
    assert not fleet.holds_the_live_token(connected), "the loser has it"
    fleet.let_pass(after, at_intuit=True)
    assert sweep(second_refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    assert (fleet.row(connected.id).status, fleet.events(connected.id)) == ("active", [])
    assert {outcome for outcome, _ in fleet.outcomes(connected.id)} == {"refreshed", "abandoned"}, "no refusal of ours"


def test_row_17_a_loser_who_posts_second_and_is_refused_changes_nothing(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher
) -> None:
    # Fails without lease and version in the conclusion: seen, a healthy connection is a suspect.
    (connected,) = fleet.connect()

    def others_go_first() -> None:
        fleet.let_pass(LEASE)
        assert sweep(second_refresher, connected).outcome is Outcome.REFRESHED

    before = with_seam(refresher, "intuit", "refresh", before=others_go_first)
    assert sweep(before, connected).reason == "overtaken"
    assert fleet.state(connected).refusals == 1
    row = fleet.row(connected.id)
    assert (row.status, row.lease_id, row.not_before, fleet.candidates(connected.id)) == ("active", None, None, [])
    assert fleet.holds_the_live_token(connected)


def test_row_7_a_process_frozen_after_the_escrow_is_found_there_first(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher
) -> None:
    (connected,) = fleet.connect()

    def others_go_on() -> None:
        fleet.let_pass(LEASE)
        assert sweep(second_refresher, connected).outcome is Outcome.REFRESHED

    result = sweep(with_seam(refresher, "escrow", "put", after=others_go_on), connected)
    assert result.reason == "overtaken"
    assert fleet.holds_the_live_token(connected)
    assert fleet.state(connected).refusals == 0


@pytest.mark.parametrize("policy", ["strict", "reuse-revokes"])
@pytest.mark.parametrize("refused", [False, True], ids=["whole", "bare"])
def test_row_7_a_save_lands_on_the_very_token_that_its_attempt_presented(
    fleet: Fleet, refresher: Refresher, second_refresher: Refresher, policy: str, *, refused: bool
) -> None:
    # One stands between escrow and save past its lease, as in a long outage of the database; the other takes its token
    # out of the escrow. Then both save. Fails without the second half of `_is_next`, and of the bare save's comparison:
    # seen, the row holds a spent token, and presenting it ends the grant where reuse is punished.
    fleet.simulator.set_policy(policy)
    (connected,) = fleet.connect()
    stands, go = Event(), Event()

    def stand() -> None:
        stands.set()
        assert go.wait(30)

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(sweep, with_seam(refresher, "store", "save", before=stand), connected)
        assert stands.wait(30)
        fleet.let_pass(LEASE)

        def it_comes() -> None:
            go.set()
            assert late.result().outcome is Outcome.REFRESHED
            if refused:
                raise IntegrityError(None, None, Exception("a rule of the database"))

        by = with_seam(second_refresher, "store", "save", before=it_comes)
        assert sweep(by, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)
    fleet.update(connected.id, "next_refresh_at = now()")
    assert sweep(refresher, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


def test_row_9_what_lies_in_our_kernel_is_not_delivered_after_we_gave_up(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    # The other side takes two kilobytes and then nothing, so that most of a long token waits in our own kernel.
    # Fails without SO_LINGER in the transport: seen, the whole request arrives.
    (connected,) = fleet.connect()
    token = "x" * 8000
    fleet.update(
        connected.id,
        "refresh_token = %(token)s, token_version = 2, refresh_token_fingerprint = %(fingerprint)s",
        token=fleet.seal(connected.id, token),
        fingerprint=fleet.fingerprint(token),
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/token"
        result = sweep(start_worker(INTUIT_TOKEN_URL=url, **SHORT).refresher, connected)
        assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unknown")
        arrived, _ = listening.accept()
        with arrived:
            received = read_to_its_end(arrived)
    assert 0 < received.count(b"x") < len(token)


def read_to_its_end(arrived: socket.socket) -> bytes:
    arrived.settimeout(5)
    received = b""
    try:
        while data := arrived.recv(1 << 16):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_row_9_nothing_is_sent_again_before_the_lease_is_over_though_intuit_is_slow(
    fleet: Fleet, start_worker: Callable[..., Runtime]
) -> None:
    worker = start_worker(**SHORT).refresher
    (connected,) = fleet.connect()
    pid = fleet.simulator.pid  # type: ignore[attr-defined]  # a StartedSimulator
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert sweep(worker, connected).reason == "unknown"
        assert time.monotonic() - began < 2.5, "a deadline of 1 s"
        again = [refresh(worker, connected.id, trigger=Trigger.ADHOC, freshness=FORCED) for _ in range(3)]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {result.outcome for result in again} == {Outcome.SKIPPED}
    assert len(fleet.attempts(connected.id)) == 1


@pytest.mark.parametrize("of", ["body", "headers"])
def test_row_10_a_byte_now_and_then_does_not_outlive_the_deadline(
    fleet: Fleet, start_worker: Callable[..., Runtime], of: str
) -> None:
    # Fails with the timeout of each read that `requests` has: seen.
    fleet.simulator.set_policy("grace")
    (connected,) = fleet.connect()
    fleet.simulator.fault("drip", of=of, interval=0.1, count=1)
    worker = start_worker(**SHORT).refresher
    began = time.monotonic()
    result = sweep(worker, connected)
    assert time.monotonic() - began < 2.5, "a deadline of 1 s"
    assert (result.outcome, result.reason) == (Outcome.DEFERRED, "unknown")
    assert refresh(worker, connected.id, trigger=Trigger.ADHOC, freshness=FORCED).outcome is Outcome.SKIPPED
    fleet.let_pass(timedelta(minutes=5))
    assert sweep(worker, connected).outcome is Outcome.REFRESHED
    assert fleet.holds_the_live_token(connected)


def test_row_21_what_a_disconnect_overtakes_is_revoked_and_not_kept(
    fleet: Fleet, refresher: Refresher, start_worker: Callable[..., Runtime]
) -> None:
    # Fails without `revocations.add` in the save: seen, a live token is left at Intuit.
    (connected,) = fleet.connect()
    frozen = fleet.simulator.fault("freeze", rotate=True)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(sweep, refresher, connected)
        wait_until(fleet.simulator.in_flight)
        fleet.update(
            connected.id,
            "status = 'disconnected', token_version = token_version + 1, refresh_token = NULL, access_token = NULL,"
            " refresh_token_fingerprint = NULL, next_refresh_at = NULL, lease_id = NULL, leased_until = NULL",
        )
        fleet.simulator.clear_fault(frozen)
        assert result.result().reason == "disconnected"
    assert revoke_due(start_worker().ender) == 1
    assert not fleet.state(connected).alive
    row = fleet.row(connected.id)
    assert (row.status, row.refresh_token, row.access_token) == ("disconnected", None, None)
    assert fleet.candidates(connected.id) == []
