from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from qbo_refresh.sealing import Field
from tests.support.attempts import FORCED, NEW_TOKEN, Attempts
from worker.attempt import Saved
from worker.errors import ClientRejected, GrantRejected, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from tests.support.fleet import Fleet

LEASE = timedelta(seconds=61)
OTHER_TOKEN = "RT1-003-H0-made-up-for-a-test-1111111111"


def test_a_success_is_saved_whole(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    before = fleet.row(connected.id)
    claim = one.claimed(connected.id)
    assert one.save(claim) is Saved.SAVED
    row = fleet.row(connected.id)
    assert fleet.token(connected.id) == NEW_TOKEN
    assert row.refresh_token_fingerprint == fleet.fingerprint(NEW_TOKEN)
    assert (row.previous_refresh_token, row.token_version) == (before.refresh_token, 2)
    assert fleet.keyring.open(row.access_token, fleet.place(connected.id, Field.ACCESS_TOKEN)).reveal() == "eyJ.made.up"
    assert (row.lease_id, row.leased_until, row.in_doubt, row.failures) == (None, None, False, 0)
    assert (row.not_before, row.suspect_since, row.status) == (None, None, "active")
    assert timedelta(hours=19, minutes=59) < row.due_in <= timedelta(hours=26)
    assert row.refresh_expires_at - row.token_obtained_at == timedelta(days=100)
    (attempt,) = fleet.attempts(connected.id)
    assert (attempt.attempt_id, attempt.outcome) == (claim.lease_id, "refreshed")
    assert (attempt.fingerprint_before, attempt.fingerprint_after) == (
        before.refresh_token_fingerprint,
        row.refresh_token_fingerprint,
    )
    assert fleet.events(connected.id) == []


def test_the_same_token_again_is_a_success_and_leaves_the_previous_one(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    assert one.save(one.claimed(connected.id)) is Saved.SAVED
    assert one.save(one.claimed(connected.id, freshness=FORCED)) is Saved.SAVED
    assert one.save(one.claimed(connected.id, freshness=FORCED)) is Saved.SAVED
    row = fleet.row(connected.id)
    assert (row.token_version, row.previous_refresh_token_fingerprint) == (
        4,
        fleet.fingerprint(connected.refresh_token),
    )


def test_late_success_is_kept_even_after_the_lease_was_taken_over(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    (connected,) = fleet.connect()
    late = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    other.claimed(connected.id)
    assert one.save(late) is Saved.SAVED
    assert fleet.token(connected.id) == NEW_TOKEN
    assert fleet.outcomes(connected.id) == [("refreshed", None)], "what it says of itself outranks `abandoned`"


def test_late_success_does_not_end_the_lease_of_who_took_over(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    # It may be presenting this very token, found in the escrow: a third attempt must wait. Fails without the CASE
    # over lease_id in `_SET_TOKENS`: seen.
    (connected,) = fleet.connect()
    late = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    taken = other.claimed(connected.id)
    assert one.save(late) is Saved.SAVED
    assert one.claim(connected.id, freshness=FORCED) is None
    assert fleet.row(connected.id).lease_id == taken.lease_id
    assert not other.conclude(taken, GrantRejected())
    fleet.let_pass(LEASE)
    assert one.claim(connected.id, freshness=FORCED) is not None


def test_late_bare_success_does_not_end_the_lease_of_who_took_over(
    fleet: Fleet, one: Attempts, other: Attempts
) -> None:
    (connected,) = fleet.connect()
    late = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    taken = other.claimed(connected.id)
    assert one.save_bare(late) is Saved.SAVED
    assert fleet.row(connected.id).lease_id == taken.lease_id


def test_a_success_that_another_version_overtook_changes_nothing(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    # Fails without the comparison of token_version in `_save_fully`: seen, the newer token is overwritten.
    (connected,) = fleet.connect()
    late = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    assert other.save(other.claimed(connected.id), OTHER_TOKEN) is Saved.SAVED
    assert one.save(late) is Saved.OVERTAKEN
    assert one.save_bare(late) is Saved.OVERTAKEN
    assert fleet.token(connected.id) == OTHER_TOKEN
    assert fleet.row(connected.id).token_version == 2


def test_an_unchanged_token_adds_nothing_to_a_row_that_went_on_with_it(fleet: Fleet, one: Attempts) -> None:
    # Its lifetimes are older than the row's. Fails without the version in `_SAVE_PLAINLY`, `_is_next`, `_SAVE_BARE`.
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    fleet.update(connected.id, "token_version = token_version + 1")
    assert one.save_bare(claim, connected.refresh_token) is Saved.BEFORE
    assert one.save(claim, connected.refresh_token) is Saved.BEFORE
    assert fleet.row(connected.id).token_version == 2


def test_a_version_that_was_raised_under_a_lease_overtakes_its_failure(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    fleet.update(connected.id, "token_version = token_version + 1")
    assert not one.conclude(claim, GrantRejected())
    assert (fleet.row(connected.id).status, fleet.holds(connected.id)) == ("active", set())


@pytest.mark.parametrize("bare", [True, False])
def test_of_saves_at_once_on_one_version_one_is_applied(
    fleet: Fleet, one: Attempts, other: Attempts, *, bare: bool
) -> None:
    (connected,) = fleet.connect()
    first = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    second = other.claimed(connected.id)
    together = Barrier(2, timeout=20)

    def save(by: Attempts, token: str) -> Saved:
        together.wait()
        claim = first if by is one else second
        return by.save_bare(claim, token) if bare else by.save(claim, token)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(save, [one, other], [NEW_TOKEN, OTHER_TOKEN]))
    assert sorted(result.name for result in results) == ["OVERTAKEN", "SAVED"]
    assert fleet.row(connected.id).token_version == 2
    assert fleet.token(connected.id) == (NEW_TOKEN if results[0] is Saved.SAVED else OTHER_TOKEN)


def test_a_save_that_is_repeated_is_applied_once(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    assert one.save(claim) is Saved.SAVED
    assert one.save(claim) is Saved.BEFORE
    assert fleet.row(connected.id).token_version == 2
    assert fleet.outcomes(connected.id) == [("refreshed", None)]


def test_a_save_that_is_repeated_after_a_newer_one_does_not_overwrite_it(
    fleet: Fleet, one: Attempts, other: Attempts
) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    assert one.save(claim) is Saved.SAVED
    assert other.save(other.claimed(connected.id, freshness=FORCED), OTHER_TOKEN) is Saved.SAVED
    assert one.save(claim) is Saved.BEFORE
    assert fleet.token(connected.id) == OTHER_TOKEN


def test_a_bare_save_that_is_repeated_leaves_no_candidate(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    assert one.save_bare(claim) is Saved.SAVED
    assert one.save_bare(claim) is Saved.BEFORE
    one.keep(claim, NEW_TOKEN)
    assert fleet.candidates(connected.id) == []


def test_a_bare_save_makes_the_row_due_now_with_unknown_lifetimes(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "refresh_expires_at = now() + interval '5 days'")
    assert one.save_bare(one.claimed(connected.id)) is Saved.SAVED
    row = fleet.row(connected.id)
    assert fleet.token(connected.id) == NEW_TOKEN
    assert (row.lease_id, row.in_doubt, row.refresh_expires_at, row.token_version) == (None, False, None, 2)
    assert row.due_in <= timedelta(0)


def test_a_bare_save_forgets_the_suspicion_of_the_version_before(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    fleet.let_pass(timedelta(hours=1))
    assert one.save_bare(one.claimed(connected.id)) is Saved.SAVED
    assert one.conclude(one.claimed(connected.id), GrantRejected())
    assert fleet.row(connected.id).status == "suspect", "this version was refused once"


def test_a_save_that_lost_to_a_disconnect_says_so(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    disconnect(fleet, connected.id)
    assert one.save(claim) is Saved.DISCONNECTED
    row = fleet.row(connected.id)
    assert (row.status, row.refresh_token, row.next_refresh_at) == ("disconnected", None, None)


def test_a_bare_save_that_lost_to_a_disconnect_says_so(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    disconnect(fleet, connected.id)
    assert one.save_bare(claim) is Saved.DISCONNECTED


def test_a_save_whose_row_was_deleted_says_so(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    claim = one.claimed(connected.id)
    fleet.db.execute("DELETE FROM qbo.connections")
    assert one.save(claim) is Saved.GONE
    assert one.save_bare(claim) is Saved.GONE


def disconnect(fleet: Fleet, connection_id: int) -> None:
    fleet.update(
        connection_id,
        "status = 'disconnected', token_version = token_version + 1, refresh_token = NULL, next_refresh_at = NULL,"
        " refresh_token_fingerprint = NULL, lease_id = NULL, leased_until = NULL",
    )


@pytest.mark.parametrize(
    "error",
    [GrantRejected(), OutcomeUnknown("no_answer"), Unavailable("unreachable"), ClientRejected("invalid_client")],
)
def test_late_failure_is_dropped_after_the_lease_was_taken_over(
    fleet: Fleet, one: Attempts, other: Attempts, error: Exception
) -> None:
    # Fails without `c.lease_id = %(attempt_id)s` in `_CONCLUDE`: seen.
    (connected,) = fleet.connect()
    late = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    taken = other.claimed(connected.id)
    before = fleet.row(connected.id)
    assert not one.conclude(late, error)  # type: ignore[arg-type]  # one of IntuitError
    after = fleet.row(connected.id)
    assert (after.status, after.lease_id, after.failures) == ("active", taken.lease_id, before.failures)
    assert [a.outcome for a in fleet.attempts(connected.id)] == ["abandoned"]


def test_late_failure_is_dropped_after_another_version_was_saved(fleet: Fleet, one: Attempts, other: Attempts) -> None:
    # Fails without `c.token_version = %(version)s` in `_CONCLUDE`: seen, with the lease kept by the late success.
    (connected,) = fleet.connect()
    late = one.claimed(connected.id)
    fleet.let_pass(LEASE)
    taken = other.claimed(connected.id)
    assert one.save(late) is Saved.SAVED
    assert not other.conclude(taken, GrantRejected())
    assert (fleet.row(connected.id).status, fleet.holds(connected.id)) == ("active", set())
    # An attempt that posted has a line in the ledger although nothing of it counts. Fails without it in `_release`.
    assert fleet.outcomes(connected.id) == [("refreshed", None), ("abandoned", "overtaken")]
    assert [attempt.token_version for attempt in fleet.attempts(connected.id)] == [1, 1]


def test_a_success_lifts_the_holds_of_the_grant_and_no_other(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "status = 'needs_reauth', suspect_since = now()")
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason)"
        " SELECT %(id)s, unnest(ARRAY['reauth', 'suspect', 'operator'])",
        {"id": connected.id},
    )
    assert one.save(one.claimed(connected.id)) is Saved.SAVED
    assert fleet.holds(connected.id) == {"operator"}
    assert fleet.events(connected.id) == ["connection.recovered"], "syncs are still paused, so not resumed"
    assert fleet.row(connected.id).event_sequence == 1


def test_a_connection_that_recovers_resumes_its_syncs(fleet: Fleet, one: Attempts) -> None:
    (connected,) = fleet.connect()
    fleet.update(connected.id, "status = 'needs_reauth'")
    fleet.db.execute(
        "INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, 'reauth')", {"id": connected.id}
    )
    one.save(one.claimed(connected.id))
    assert fleet.events(connected.id) == ["connection.recovered", "sync.resumed"]
