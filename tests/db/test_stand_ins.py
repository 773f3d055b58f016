"""The contract of a store and an escrow: what the explorer's stand-ins must do as PostgreSQL and Valkey do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.explore.bench import Bench, MemoryBench, RealBench
from tests.support.attempts import FORCED, NEW_TOKEN, Attempts
from worker.attempt import IF_DUE, Claim, Freshness, Saved, Source
from worker.errors import ClientRejected, GrantRejected, OutcomeUnknown, RequestRejected, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fleet import Fleet

LEASE = timedelta(seconds=61)
CONFIRMED = timedelta(minutes=16)
DAY = timedelta(days=1)
TOKENS = [f"RT1-00{n}-H0-made-up-for-a-test-{n * 10:010d}" for n in range(10)]


@pytest.fixture(params=["real", "stand-in"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Give a store and an escrow, of both kinds."""
    if request.param == "stand-in":
        yield MemoryBench()
        return
    yield from real_bench(request)


def real_bench(request: pytest.FixtureRequest) -> Iterator[RealBench]:
    fleet: Fleet = request.getfixturevalue("fleet")
    one: Attempts = request.getfixturevalue("one")
    other: Attempts = request.getfixturevalue("other")
    with redis.Redis.from_url(request.getfixturevalue("redis_url")) as valkey:
        yield RealBench(fleet, one, other, valkey)


def refused(bench: Bench, id_: int, *, by: Attempts | None = None) -> None:
    """Let one attempt meet `invalid_grant`."""
    by = by or bench.one
    assert by.conclude(by.claimed(id_, freshness=FORCED), GrantRejected())


def standing(bench: Bench, id_: int) -> tuple[str, int, bool, bool]:
    row = bench.row(id_)
    return str(row.status), row.token_version, row.in_doubt, row.lease_id is not None


def wait(bench: Bench, id_: int) -> timedelta:
    return timedelta(0) if bench.row(id_).not_before is None else bench.row(id_).not_before - bench.now()


def test_a_lease_is_given_once_until_it_is_over(bench: Bench) -> None:
    id_ = bench.connect()
    claim = bench.one.claimed(id_)
    assert bench.other.claim(id_, freshness=FORCED) is None
    assert bench.other.why_not(id_) == "in_progress"
    again = bench.one.claim(id_, lease_id=claim.lease_id)
    assert again is not None
    assert not again.standing.in_doubt
    bench.let_pass(LEASE)
    assert bench.other.claimed(id_).standing.in_doubt
    assert bench.outcomes(id_) == [("abandoned", None, None)]


def test_what_is_not_due_is_for_who_asks_for_more(bench: Bench) -> None:
    id_ = bench.connect()
    bench.one.save(bench.one.claimed(id_))
    assert bench.one.claim(id_, freshness=IF_DUE) is None
    assert bench.one.why_not(id_, freshness=IF_DUE) == "not_due"
    assert bench.one.claim(id_, freshness=Freshness(timedelta(minutes=1))) is None
    assert bench.one.why_not(id_, freshness=Freshness(timedelta(minutes=1))) == "fresh"
    assert bench.one.claim(id_, freshness=Freshness(timedelta(0), timedelta(minutes=5))) is None
    assert bench.one.claim(id_, freshness=Freshness(timedelta(0), timedelta(hours=2))) is not None


def test_a_claim_shows_the_row(bench: Bench) -> None:
    id_ = bench.connect()
    claim, row = bench.one.claimed(id_), bench.row(id_)
    assert (claim.token_version, claim.grant_number, claim.refresh_token) == (1, 1, row.refresh_token)
    assert (claim.has_candidates, claim.is_new_epoch, claim.is_foreign, claim.probing) == (False, False, False, False)
    assert (claim.blocked, claim.standing.reason, claim.standing.failures) == (frozenset(), None, 0)
    assert row.leased_until - row.attempt_began_at == timedelta(seconds=60)


@pytest.mark.parametrize("freshness", [IF_DUE, FORCED])
@pytest.mark.parametrize("column", ["frozen", "not_before", "next_refresh_at"])
def test_what_binds_everybody(bench: Bench, column: str, freshness: Freshness) -> None:
    id_ = bench.connect()
    bound: dict[str, Any] = {"frozen": True, "not_before": bench.now() + LEASE, "next_refresh_at": None}
    bench.write(id_, **{column: bound[column]})
    assert bench.one.claim(id_, freshness=freshness) is None


def test_a_save_puts_everything_into_the_row(bench: Bench) -> None:
    id_ = bench.connect()
    before = bench.row(id_)
    claim = bench.one.claimed(id_)
    assert bench.one.save(claim) is Saved.SAVED
    row = bench.row(id_)
    assert standing(bench, id_) == ("active", 2, False, False)
    assert (row.previous_refresh_token, row.failures, row.not_before) == (before.refresh_token, 0, None)
    assert row.refresh_token_fingerprint == row.known_fingerprint == bench.one.received(claim).fingerprint
    assert timedelta(hours=19) < row.next_refresh_at - bench.now() < timedelta(hours=25)
    assert row.hard_expires_at - row.token_obtained_at == timedelta(days=1800)
    assert bench.outcomes(id_) == [("refreshed", None, None)]
    assert bench.one.save(claim) is Saved.BEFORE
    assert bench.row(id_).token_version == 2


def test_the_same_token_again_leaves_the_previous_one(bench: Bench) -> None:
    id_ = bench.connect()
    before = bench.row(id_).refresh_token_fingerprint
    bench.one.save(bench.one.claimed(id_))
    bench.one.save(bench.one.claimed(id_, freshness=FORCED))
    assert bench.row(id_).previous_refresh_token_fingerprint == before


@pytest.mark.parametrize("bare", [False, True])
def test_a_late_success_is_kept_and_leaves_the_lease_to_who_took_over(bench: Bench, *, bare: bool) -> None:
    id_ = bench.connect()
    late = bench.one.claimed(id_)
    bench.let_pass(LEASE)
    taken = bench.other.claimed(id_)
    assert (bench.one.save_bare(late) if bare else bench.one.save(late)) is Saved.SAVED
    assert bench.row(id_).lease_id == taken.lease_id
    assert not bench.other.conclude(taken, GrantRejected())
    assert standing(bench, id_) == ("active", 2, False, False), "what was overtaken gives its lease up"


@pytest.mark.parametrize("bare", [False, True])
def test_a_save_that_was_overtaken_changes_nothing(bench: Bench, *, bare: bool) -> None:
    id_ = bench.connect()
    late = bench.one.claimed(id_)
    bench.let_pass(LEASE)
    bench.other.save(bench.other.claimed(id_), TOKENS[1])
    newest = bench.row(id_).refresh_token_fingerprint
    assert (bench.one.save_bare(late) if bare else bench.one.save(late)) is Saved.OVERTAKEN
    assert bench.row(id_).refresh_token_fingerprint == newest
    same = bench.one.save_bare(late, TOKENS[1]) if bare else bench.one.save(late, TOKENS[1])
    assert same is Saved.BEFORE, "the row holds that token"


def test_a_bare_save_is_due_at_once_and_forgets_the_suspicion(bench: Bench) -> None:
    id_ = bench.connect()
    refused(bench, id_)
    bench.let_pass(CONFIRMED)
    claim = bench.one.claimed(id_)
    assert bench.one.save_bare(claim) is Saved.SAVED
    row = bench.row(id_)
    assert (row.suspect_since, row.refresh_expires_at, row.lease_id, row.token_version) == (None, None, None, 2)
    assert row.next_refresh_at <= bench.now()
    assert bench.one.save_bare(claim) is Saved.BEFORE


def test_a_failure_needs_the_lease_and_the_version(bench: Bench) -> None:
    id_ = bench.connect()
    late = bench.one.claimed(id_)
    bench.let_pass(LEASE)
    taken = bench.other.claimed(id_)
    assert not bench.one.conclude(late, GrantRejected())
    assert bench.row(id_).lease_id == taken.lease_id
    assert bench.other.conclude(taken, GrantRejected())
    assert standing(bench, id_) == ("suspect", 1, True, False)


def test_doubt_keeps_the_lease_and_is_not_called_abandoned(bench: Bench) -> None:
    id_ = bench.connect()
    assert bench.one.conclude(bench.one.claimed(id_), OutcomeUnknown("no_answer"))
    assert standing(bench, id_) == ("active", 1, True, True)
    assert bench.other.claim(id_, freshness=FORCED) is None
    assert bench.other.why_not(id_) == "unknown"
    bench.let_pass(LEASE)
    assert bench.other.claimed(id_).standing.in_doubt
    assert bench.outcomes(id_) == [("deferred", "unknown", None)]


def test_a_pause_after_a_failure_doubles(bench: Bench) -> None:
    id_ = bench.connect()
    for minutes in (1, 2, 4):
        assert bench.one.conclude(bench.one.claimed(id_), Unavailable("unreachable"))
        assert timedelta(minutes=minutes - 0.2) < wait(bench, id_) <= timedelta(minutes=minutes)
        bench.let_pass(timedelta(minutes=minutes, seconds=1))
    assert bench.row(id_).failures == 3


def test_a_throttle_pauses_the_app(bench: Bench) -> None:
    throttled, id_ = bench.connect(), bench.connect()
    error = Unavailable("throttled", retry_after=timedelta(minutes=2))
    assert bench.one.conclude(bench.one.claimed(throttled), error)
    assert bench.one.claim(id_) is None
    assert bench.one.why_not(id_) == "throttled"
    bench.let_pass(timedelta(minutes=3))
    assert bench.one.claim(id_) is not None


def test_a_verdict_takes_two_refusals_and_a_witness(bench: Bench) -> None:
    id_ = bench.connect()
    refused(bench, id_)
    assert (standing(bench, id_)[0], bench.holds(id_), bench.events(id_)) == ("suspect", {"suspect"}, [])
    assert timedelta(minutes=14) < wait(bench, id_) <= timedelta(minutes=15)
    first = bench.row(id_).suspect_since
    bench.witness()
    bench.let_pass(CONFIRMED)
    assert bench.row(id_).suspect_since <= first, "it does not move forward"
    refused(bench, id_)
    assert (standing(bench, id_)[0], bench.holds(id_)) == ("needs_reauth", {"reauth"})
    assert bench.events(id_) == ["connection.needs_reauth", "sync.paused"]
    assert bench.outcomes(id_) == [("suspect", "invalid_grant", None), ("needs_reauth", "invalid_grant", None)]
    assert timedelta(hours=2) < bench.row(id_).next_refresh_at - bench.now() <= timedelta(hours=3)


def test_without_a_witness_a_verdict_waits_longer(bench: Bench) -> None:
    id_ = bench.connect()
    for _ in range(3):
        refused(bench, id_)
        bench.let_pass(CONFIRMED)
    refused(bench, id_)
    assert [withheld for _, _, withheld in bench.outcomes(id_)] == [None, "witness", "witness", None]
    assert standing(bench, id_)[0] == "needs_reauth"


def test_a_witness_of_the_time_before_is_none(bench: Bench) -> None:
    id_ = bench.connect()
    bench.witness()
    bench.let_pass(LEASE)
    refused(bench, id_)
    bench.let_pass(CONFIRMED)
    refused(bench, id_)
    assert bench.outcomes(id_)[-1] == ("suspect", "invalid_grant", "witness")


def test_a_candidate_withholds_a_verdict_until_it_was_tried(bench: Bench) -> None:
    id_ = bench.connect()
    refused(bench, id_)
    bench.witness()
    bench.let_pass(CONFIRMED)
    claim = bench.one.claimed(id_)
    bench.one.keep(claim, TOKENS[1])
    assert bench.one.conclude(claim, GrantRejected())
    assert (bench.outcomes(id_)[-1][2], bench.row(id_).not_before) == ("candidate", None)
    # The row's token waits for the second refusal, and is asked about twice then.
    for believed in (False, True):
        assert bench.refuse_all(id_) == [believed]
        refused(bench, id_)
        assert bench.outcomes(id_)[-1][2] == "refused_once"
        bench.let_pass(CONFIRMED)
    assert bench.refuse_all(id_) == [True]
    refused(bench, id_)
    assert standing(bench, id_)[0] == "needs_reauth"


def test_the_refusal_of_what_may_be_older_than_the_rows_token_is_believed_at_once(bench: Bench) -> None:
    id_ = bench.connect()
    claim = bench.one.claimed(id_)
    bench.one.save(claim)
    bench.one.keep(claim, TOKENS[1])
    bench.one.keep(replace(claim, token_version=2), TOKENS[2], Source.IMPORT)
    assert bench.refuse_all(id_) == [True, True]


def test_the_previous_token_becomes_a_candidate_before_a_verdict(bench: Bench) -> None:
    id_ = bench.connect()
    bench.one.save(bench.one.claimed(id_))
    refused(bench, id_)
    bench.witness()
    bench.let_pass(CONFIRMED)
    refused(bench, id_)
    assert bench.outcomes(id_)[-1][2] == "previous"
    assert bench.candidates(id_) == [("previous", 1, False)]
    bench.refuse_all(id_)
    refused(bench, id_)
    assert standing(bench, id_)[0] == "needs_reauth"


def test_one_suspect_too_many_trips_the_guard(bench: Bench) -> None:
    ids = [bench.connect() for _ in range(5)]
    for id_ in ids[:3]:
        refused(bench, id_)
    assert bench.events() == []
    refused(bench, ids[3])
    refused(bench, ids[4])
    assert bench.events() == ["guard.tripped"]
    bench.witness()
    bench.let_pass(CONFIRMED)
    refused(bench, ids[0])
    assert bench.outcomes(ids[0])[-1][2] == "guard"
    bench.let_pass(timedelta(hours=6))
    refused(bench, ids[0])
    assert bench.outcomes(ids[0])[-1][:2] == ("needs_reauth", "invalid_grant"), "six hours beside a witness"


def test_a_success_recovers_what_was_given_up(bench: Bench) -> None:
    id_ = bench.connect()
    refused(bench, id_)
    bench.witness()
    bench.let_pass(CONFIRMED)
    refused(bench, id_)
    bench.let_pass(timedelta(hours=4))
    assert bench.one.save(bench.one.claimed(id_)) is Saved.SAVED
    assert (standing(bench, id_)[0], bench.holds(id_)) == ("active", set())
    assert bench.events(id_)[2:] == ["connection.recovered", "sync.resumed"]
    assert (bench.row(id_).suspect_since, bench.row(id_).needs_reauth_since) == (None, None)


def test_candidates_are_kept_once_and_make_the_row_due(bench: Bench) -> None:
    id_ = bench.connect()
    claim = bench.one.claimed(id_)
    bench.one.save(claim)
    bench.one.keep(claim, NEW_TOKEN)
    assert bench.candidates(id_) == [], "the row holds it"
    assert bench.row(id_).next_refresh_at > bench.now()
    bench.one.keep(claim, TOKENS[1])
    assert bench.row(id_).next_refresh_at <= bench.now()
    bench.refuse_all(id_)
    bench.one.keep(claim, TOKENS[1], Source.ESCROW)
    assert bench.candidates(id_) == [("late_save", 1, True)]
    bench.one.keep(claim, TOKENS[2])
    bench.let_pass(LEASE)
    bench.one.keep(claim, TOKENS[3])
    now = bench.one.claimed(id_)
    assert now.has_candidates
    names = [bench.one.received(claim, TOKENS[n]).fingerprint for n in (3, 2, 1)]
    assert [each.fingerprint for each in bench.one.by.store.candidates(now)] == names


def test_a_success_settles_what_it_has_seen(bench: Bench) -> None:
    id_ = bench.connect()
    bench.one.keep(bench.one.claimed(id_), TOKENS[1])
    bench.let_pass(LEASE)
    claim = bench.one.claimed(id_)
    ids = tuple(each.candidate_id for each in bench.one.by.store.candidates(claim))
    bench.one.keep(claim, TOKENS[2])
    assert bench.one.save(claim, disposed=ids) is Saved.SAVED
    assert [tried for _, _, tried in bench.candidates(id_)] == [True, False]
    now = bench.one.claimed(id_, freshness=FORCED)
    assert [each.fingerprint for each in bench.one.by.store.candidates(now)] == [
        bench.one.received(claim, TOKENS[2]).fingerprint
    ]


def test_a_candidate_wakes_what_was_given_up(bench: Bench) -> None:
    id_ = bench.connect()
    claim = bench.one.claimed(id_)
    bench.write(id_, status="needs_reauth", next_refresh_at=None, lease_id=None, leased_until=None)
    bench.one.keep(claim, TOKENS[1])
    assert bench.one.claim(id_) is not None


def test_nothing_is_kept_of_another_grant_or_for_who_has_gone(bench: Bench) -> None:
    id_ = bench.connect()
    claim = bench.one.claimed(id_)
    bench.write(id_, grant_number=2, token_version=2)
    bench.one.keep(claim, TOKENS[1])
    bench.write(id_, grant_number=1, token_version=3, status="disconnected", next_refresh_at=None)
    bench.one.keep(claim, TOKENS[1])
    assert bench.candidates(id_) == []
    assert bench.one.save(claim) is Saved.DISCONNECTED


def test_a_refused_secret_blocks_but_for_a_probe_until_it_works(bench: Bench) -> None:
    id_, other = bench.connect(), bench.connect()
    claim = bench.one.claimed(id_)
    name = bench.one.by.secrets[claim.app_id][0].secret_hash
    for _ in range(2):
        bench.one.by.store.block(claim, secret_hash=name, reason="invalid_client", at_once=True)
    assert bench.one.conclude(claim, ClientRejected("invalid_client"))
    assert bench.events() == ["app.blocked"]
    assert bench.one.claim(other, freshness=FORCED) is None
    assert bench.one.why_not(other) == "blocked"
    bench.let_pass(LEASE)
    probe = bench.one.claimed(other)
    assert (probe.probing, probe.blocked) == (True, frozenset({name}))
    assert bench.one.claim(id_, freshness=FORCED) is None, "one a minute"
    assert bench.one.save(probe) is Saved.SAVED
    assert bench.events() == ["app.blocked", "app.unblocked"]
    assert bench.one.claim(id_, freshness=FORCED) is not None


def test_other_refusals_block_after_three_connections(bench: Bench) -> None:
    ids = [bench.connect() for _ in range(3)]
    for id_ in (ids[0], ids[0], ids[1], ids[2]):
        assert bench.events() == []
        claim = bench.one.claimed(id_)
        name = bench.one.by.secrets[claim.app_id][0].secret_hash
        bench.one.by.store.block(claim, secret_hash=name, reason="invalid_request", at_once=False)
        assert bench.one.conclude(claim, RequestRejected("invalid_request"))
        bench.let_pass(LEASE)
    assert bench.events() == ["app.blocked"]


def test_a_new_timeline_gives_no_lease_until_one_lease_after_it_was_seen(bench: Bench) -> None:
    id_ = bench.connect()
    bench.one.save(bench.one.claimed(id_))
    bench.let_pass(DAY + DAY)
    bench.fail_over()
    assert bench.one.claim(id_, freshness=FORCED) is None
    assert bench.one.why_not(id_) == "database_changed"
    bench.recognise()
    assert bench.one.claim(id_, freshness=FORCED) is None
    bench.let_pass(LEASE)
    claim = bench.one.claimed(id_)
    assert claim.is_new_epoch
    assert bench.one.conclude(claim, Unavailable("unreachable"))
    bench.let_pass(LEASE)
    assert not bench.one.claimed(id_).is_new_epoch


def test_verdicts_wait_a_day_in_a_new_epoch(bench: Bench) -> None:
    id_ = bench.connect()
    bench.fail_over()
    bench.recognise()
    bench.let_pass(LEASE)
    refused(bench, id_)
    bench.witness()
    bench.let_pass(CONFIRMED)
    refused(bench, id_)
    assert bench.outcomes(id_)[-1][2] == "epoch"
    bench.let_pass(DAY)
    refused(bench, id_)
    assert standing(bench, id_)[0] == "needs_reauth"


def test_a_token_that_somebody_else_wrote_is_told_once(bench: Bench) -> None:
    id_ = bench.connect()
    claim = bench.one.claimed(id_)
    foreign = bench.one.received(claim, TOKENS[1])
    bench.write(
        id_, refresh_token=foreign.refresh_token, refresh_token_fingerprint=foreign.fingerprint, token_version=2
    )
    bench.let_pass(LEASE)
    claim = bench.one.claimed(id_)
    assert claim.is_foreign
    bench.one.by.store.report_second_writer(claim)
    bench.one.by.store.report_second_writer(claim)
    assert bench.events(id_) == ["second_writer.seen"]
    bench.let_pass(LEASE)
    assert not bench.one.claimed(id_).is_foreign


def copies(bench: Bench, claim: Claim, version: int) -> list[bytes]:
    found = bench.one.by.escrow.find(claim.connection_id, grant_number=1, base_version=version)
    assert found is not None
    return [each.fingerprint for each in found]


def test_the_escrow_finds_what_came_after_a_version_or_in_place_of_it(bench: Bench) -> None:
    claim = bench.one.claimed(bench.connect())
    kept = [replace(bench.one.received(claim, TOKENS[n]), base_version=base) for n, base in enumerate((3, 1, 1, 2, 9))]
    for each in kept:
        assert bench.one.by.escrow.put(each)
    names = [each.fingerprint for each in kept]
    assert copies(bench, claim, 1) == [names[1], names[2], names[3], names[0], names[4]]
    assert copies(bench, claim, 2) == [names[1], names[2], names[3], names[0], names[4]], "and the one before"
    assert copies(bench, claim, 3) == [names[3], names[0], names[4]]
    assert copies(bench, claim, 11) == []
    assert bench.one.by.escrow.find(claim.connection_id, grant_number=2, base_version=1) == []


def test_a_copy_lives_for_30_days_or_for_25_hours_once_it_is_saved(bench: Bench) -> None:
    claim = bench.one.claimed(bench.connect())
    settled, kept = bench.one.received(claim), replace(bench.one.received(claim, TOKENS[1]), base_version=2)
    assert bench.one.by.escrow.put(settled)
    assert bench.one.by.escrow.put(kept)
    bench.one.by.escrow.settle(settled)
    bench.let_pass(timedelta(hours=24, minutes=59))
    assert copies(bench, claim, 1) == [settled.fingerprint, kept.fingerprint]
    bench.let_pass(timedelta(minutes=2))
    assert copies(bench, claim, 1) == [kept.fingerprint]
    bench.let_pass(30 * DAY)
    assert copies(bench, claim, 1) == []
