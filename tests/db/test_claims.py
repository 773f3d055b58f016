from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH, MAX_CACHED_STATEMENT_PARAMS

from tests.support.attempts import FORCED, Attempts
from worker.attempt import Freshness
from worker.errors import OutcomeUnknown
from worker.store import claims, outcomes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.fleet import Fleet
    from worker.runtime import Runtime

LEASE = timedelta(seconds=61)
MINUTE = timedelta(minutes=1)


def test_a_claim_is_given_once_however_many_ask_at_once(fleet: Fleet, one: Attempts) -> None:
    # Fails without `c.lease_id IS NULL OR c.leased_until <= now()` in the claim's WHERE: seen, eight claims.
    for connected in fleet.connect(5):
        together = Barrier(8, timeout=20)

        def ask(connection_id: int = connected.id, together: Barrier = together) -> bool:
            together.wait()
            return one.claim(connection_id) is not None

        with ThreadPoolExecutor(8) as pool:
            given = [each.result() for each in [pool.submit(ask) for _ in range(8)]]
        assert given.count(True) == 1


def test_a_claim_shows_the_row_as_it_was(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    row = fleet.row(connected.id)
    assert (claim.connection_id, claim.app_id, claim.environment) == (connected.id, connected.app_id, "sandbox")
    assert (claim.token_version, claim.grant_number, claim.refresh_token) == (1, 1, row.refresh_token)
    assert (row.lease_id, row.is_leased, row.queued_until) == (claim.lease_id, True, None)
    assert row.leased_until - row.attempt_began_at == timedelta(seconds=60)
    assert not claim.standing.in_doubt


def test_a_leased_connection_is_not_claimed_by_anybody(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    (connected,) = fleet.connect()
    one.claimed(connected.id)
    assert other.claim(connected.id) is None
    assert other.claim(connected.id, freshness=FORCED) is None
    assert other.why_not(connected.id) == "in_progress"


def test_a_claim_that_is_repeated_with_its_own_lease_is_given_again(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    lease_id = uuid4()
    first = one.claim(connected.id, lease_id=lease_id)
    again = one.claim(connected.id, lease_id=lease_id)
    assert first is not None
    assert again is not None
    assert not again.standing.in_doubt
    assert fleet.attempts(connected.id) == []


@pytest.mark.parametrize("freshness", [FORCED, Freshness(timedelta(hours=1), timedelta(hours=1))])
def test_a_forced_claim_can_be_repeated_too(fleet: Fleet, one: Attempts, freshness: Freshness) -> None:
    (connected,) = fleet.connect()
    lease_id = uuid4()
    assert one.claim(connected.id, freshness=freshness, lease_id=lease_id)
    assert one.claim(connected.id, freshness=freshness, lease_id=lease_id)


def test_a_dead_lease_is_taken_over_in_doubt_and_written_down_once(
    fleet: Fleet, one: Attempts, other: Attempts
) -> None:
    (connected,) = fleet.connect()
    dead = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    taken = other.claimed(connected.id)
    assert taken.standing.in_doubt
    assert fleet.row(connected.id).in_doubt
    (attempt,) = fleet.attempts(connected.id)
    assert (attempt.attempt_id, attempt.outcome, attempt.token_version) == (dead.lease_id, "abandoned", 1)
    assert attempt.worker == one.by.worker
    fleet.let_pass(LEASE)
    third = one.claimed(connected.id)
    assert third.standing.in_doubt
    assert [a.attempt_id for a in fleet.attempts(connected.id)] == [dead.lease_id, taken.lease_id]


def test_an_attempt_that_said_itself_that_it_is_in_doubt_is_not_called_abandoned(
    fleet: Fleet, one: Attempts, other: Attempts
) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    assert one.conclude(claim, OutcomeUnknown("no_answer"))
    row = fleet.row(connected.id)
    assert (row.is_leased, row.in_doubt, row.status) == (True, True, "active")
    assert other.claim(connected.id, freshness=FORCED) is None, "not before the lease is over"
    fleet.let_pass(timedelta(minutes=2))
    assert other.claimed(connected.id).standing.in_doubt
    assert fleet.outcomes(connected.id) == [("deferred", "unknown")]


@pytest.mark.parametrize(
    ("assignments", "why"),
    [
        ("frozen = true", "frozen"),
        ("next_refresh_at = NULL, status = 'needs_reauth'", "needs_reauth"),
        ("next_refresh_at = NULL, status = 'disconnected'", "disconnected"),
        ("not_before = now() + interval '1 minute', last_reason = 'unreachable'", "unreachable"),
        ("not_before = now() + interval '1 minute', last_outcome = 'suspect', last_reason = 'invalid_grant'",
         "invalid_grant"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("freshness", [Freshness(), FORCED])
def test_what_binds_everybody_binds_a_forced_caller(
    fleet: Fleet, one: Attempts, assignments: str, why: str, freshness: Freshness
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, assignments)
    assert one.claim(connected.id, freshness=freshness) is None
    assert one.why_not(connected.id) == why


def test_nothing_is_claimed_while_everything_is_frozen(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    assert one.claim(connected.id, freshness=FORCED) is None
    assert one.why_not(connected.id) == "frozen"
    fleet.db.execute("UPDATE qbo.control SET frozen = false")
    assert one.claim(connected.id) is not None


def test_a_throttled_app_pauses_as_a_whole_and_no_longer_than_that(fleet: Fleet, one: Attempts) -> None:
    connected = fleet.connect(2)
    fleet.db.execute("UPDATE qbo.apps SET throttled_until = now() + interval '1 minute'")
    for each in connected:
        assert one.claim(each.id, freshness=FORCED) is None
        assert one.why_not(each.id) == "throttled"
    fleet.let_pass(timedelta(seconds=61))
    assert one.claim(connected[0].id) is not None


def test_a_row_of_an_app_without_keys_here_is_left_alone(fleet: Fleet, start_worker: Callable[..., Runtime]) -> None:
    (connected,) = fleet.connect()
    stranger = Attempts(start_worker(INTUIT_CLIENT_ID="another-app").refresher)
    assert stranger.claim(connected.id, freshness=FORCED) is None
    assert stranger.why_not(connected.id) == "no_keys"


def test_a_connection_that_is_not_due_is_claimed_only_by_who_asks_for_more(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "next_refresh_at = now() + interval '1 hour'")
    assert one.claim(connected.id) is None
    assert one.why_not(connected.id, freshness=Freshness()) == "not_due"
    assert one.claim(connected.id, freshness=FORCED) is not None
    assert fleet.row(connected.id).due_in <= timedelta(0), "so that a dead worker's connection is swept again"


@pytest.mark.parametrize(("began_s_ago", "given"), [(30, False), (61, True)])
def test_a_hundred_clicks_within_max_age_are_one_call(
    fleet: Fleet, one: Attempts, began_s_ago: int, *, given: bool
) -> None:
    (connected,) = fleet.connect()
    fleet.update(
        connected.id,
        "attempt_began_at = now() - %(ago)s::interval, last_outcome = 'refreshed'",
        ago=timedelta(seconds=began_s_ago),
    )
    freshness = Freshness(max_age=MINUTE)
    if not given:
        assert one.why_not(connected.id, freshness=freshness) == "fresh"
    assert (one.claim(connected.id, freshness=freshness) is not None) is given


@pytest.mark.parametrize(("ttl", "given"), [(None, True), (timedelta(minutes=4), True), (timedelta(minutes=6), False)])
def test_min_ttl_asks_only_for_what_lives_no_longer(
    fleet: Fleet, one: Attempts, ttl: timedelta | None, *, given: bool
) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "access_expires_at = now() + %(ttl)s::interval, last_outcome = 'refreshed'", ttl=ttl)
    freshness = Freshness(timedelta(0), timedelta(minutes=5))
    if not given:
        assert one.why_not(connected.id, freshness=freshness) == "fresh"
    assert (one.claim(connected.id, freshness=freshness) is not None) is given


def test_a_claim_reads_no_other_connection_however_small_the_fleet(fleet: Fleet) -> None:
    # Fails without the LIMIT in `held`: seen, a Seq Scan.
    (connected, *_) = fleet.connect(400)
    names = set(re.findall(r"%\((\w+)\)s", claims._CLAIM))  # noqa: SLF001  # its plan is what this is about
    values = dict.fromkeys(names) | {"id": connected.id, "key_apps": "{1}", "key_hashes": "{x}"}
    values |= {"lease": uuid4(), "lasts": LEASE, "probe_every": MINUTE, "trigger": "sweep", "worker": "one"}
    plan = "\n".join(row[0] for row in fleet.db.execute(f"EXPLAIN {claims._CLAIM}", values))  # noqa: SLF001
    assert "Index Scan using connections_pkey on connections" in plan
    assert "Seq Scan on connections" not in plan


def test_psycopg_remembers_how_the_statements_of_an_ordinary_refresh_are_parsed() -> None:
    for statement in (claims._CLAIM, outcomes._SAVE_PLAINLY):  # noqa: SLF001  # as above
        assert len(statement) <= MAX_CACHED_STATEMENT_LENGTH
        assert len(set(re.findall(r"%\((\w+)\)s", statement))) <= MAX_CACHED_STATEMENT_PARAMS


def test_an_unknown_connection_is_named_as_such(one: Attempts) -> None:
    assert one.claim(12345) is None
    assert one.why_not(12345) == "unknown_connection"


def test_a_lease_counts_by_the_databases_clock_whatever_the_sessions_zone(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    one.by.store.candidates(one.claimed(connected.id))
    fleet.db.execute("SET TIME ZONE 'Pacific/Kiritimati'")
    assert fleet.row(connected.id).is_leased
