from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING

from tests.support.attempts import FORCED, Attempts
from worker.attempt import Saved

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Fleet
    from worker.attempt import Claim
    from worker.runtime import Runtime


def secret_hash(by: Attempts, claim: Claim) -> bytes:
    return by.by.secrets[claim.app_id][0].secret_hash


def block(by: Attempts, claim: Claim, *, at_once: bool = True) -> None:
    by.by.store.block(claim, secret_hash=secret_hash(by, claim), reason="invalid_client", at_once=at_once)


def give_back(fleet: Fleet) -> None:
    fleet.update(None, "lease_id = NULL, leased_until = NULL")


def test_a_refused_secret_is_blocked_and_told_once(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    first, second = (one.claimed(each.id) for each in fleet.connect(2))
    block(one, first)
    block(one, first)
    block(other, second)
    assert fleet.events() == ["app.blocked"]


def test_of_refusals_at_once_one_tells(fleet: Fleet, one: Attempts) -> None:
    claims = [one.claimed(each.id) for each in fleet.connect(8)]
    together = Barrier(8, timeout=20)

    def refused(claim: Claim) -> None:
        together.wait()
        block(one, claim)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(refused, claims))
    assert fleet.events() == ["app.blocked"]


def test_a_blocked_secret_lets_one_connection_a_minute_through(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    connected = fleet.connect(3)
    block(one, one.claimed(connected[0].id))
    give_back(fleet)
    assert all(one.claim(each.id, freshness=FORCED) is None for each in connected)
    assert one.why_not(connected[1].id) == "blocked"
    fleet.let_pass(timedelta(seconds=61))
    probing = other.claimed(connected[1].id)
    assert probing.probing
    assert one.claim(connected[0].id, freshness=FORCED) is None
    assert one.claim(connected[2].id, freshness=FORCED) is None


def test_of_probes_at_once_one_goes(fleet: Fleet, one: Attempts) -> None:
    # Fails without `b.probe_at <= now()` in the claim's probe: seen.
    connected = fleet.connect(8)
    block(one, one.claimed(connected[0].id))
    give_back(fleet)
    fleet.let_pass(timedelta(seconds=61))
    together = Barrier(8, timeout=20)

    def ask(connection_id: int) -> bool:
        together.wait()
        return one.claim(connection_id) is not None

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(ask, [each.id for each in connected]))
    assert given.count(True) == 1


def test_a_deployment_with_another_secret_is_not_blocked(
    fleet: Fleet, one: Attempts, start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    block(one, one.claimed(connected.id))
    give_back(fleet)
    mended = Attempts(start_worker(INTUIT_CLIENT_SECRET="another").refresher)
    claim = mended.claimed(connected.id)
    assert not claim.probing


def test_a_worker_with_one_good_secret_of_two_goes_on(
    fleet: Fleet, one: Attempts, start_worker: Callable[..., Runtime]
) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    block(one, claim)
    give_back(fleet)
    both = Attempts(start_worker(INTUIT_CLIENT_SECRET_PREVIOUS="another").refresher)
    assert both.claimed(connected.id).blocked == {secret_hash(one, claim)}


def test_a_success_unblocks_and_tells(fleet: Fleet, one: Attempts) -> None:
    first, second = fleet.connect(2)
    block(one, one.claimed(first.id))
    give_back(fleet)
    fleet.let_pass(timedelta(seconds=61))
    assert one.save(one.claimed(first.id)) is Saved.SAVED
    assert fleet.events() == ["app.blocked", "app.unblocked"]
    assert one.claim(second.id) is not None


def test_an_odd_row_alone_blocks_nothing_and_three_do(fleet: Fleet, one: Attempts) -> None:
    claims = [one.claimed(each.id) for each in fleet.connect(3)]
    for claim in [claims[0]] * 5 + [claims[1]] * 2:
        block(one, claim, at_once=False)
    assert fleet.events() == []
    block(one, claims[2], at_once=False)
    assert fleet.events() == ["app.blocked"]


def test_a_success_between_starts_the_count_anew(fleet: Fleet, one: Attempts) -> None:
    claims = [one.claimed(each.id) for each in fleet.connect(4)]
    block(one, claims[0], at_once=False)
    block(one, claims[1], at_once=False)
    assert one.save(claims[3]) is Saved.SAVED
    block(one, claims[2], at_once=False)
    assert fleet.events() == [], "nothing was blocked, so nothing is unblocked"
