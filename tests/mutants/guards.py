"""The guards, each as the text that makes it, the text without it, and the tests that must fail then.

A list by hand and not every mutation that a program can think of: what stands here is what the promises rest on. An
entry whose text no longer stands in its file is an error, so that the list follows the code. Here are those of doubt,
candidates and verdicts, and all of them together.
"""

from __future__ import annotations

from tests.mutants import claiming, consenting, outside, saving, sending
from tests.mutants.guard import Guard, corners

_OUTCOMES = "worker/store/outcomes.py"
_PRESENTING = "worker/refresh/presenting.py"
_KEEPING = "worker/refresh/keeping.py"
_UNDER_WAY = "worker/refresh/under_way.py"
_ANSWERS = "worker/policy/answers.py"
_VERDICTS = "worker/policy/verdicts.py"


def _guards(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_guard.py::{name}" for name in names)


_VERDICT = (
    Guard(
        "escrow: a copy before the save",
        _KEEPING,
        "        kept = by.escrow.put(received)\n",
        "        kept = True\n",
        (
            "tests/faults/test_crashes.py::test_row_5_what_dies_anywhere_else_than_between_answer_and_escrow_loses_nothing",
        ),
    ),
    Guard(
        "escrow: looked into when in doubt",
        _PRESENTING,
        "    if claim.standing.in_doubt or claim.standing.suspect_since is not None or claim.is_new_epoch:\n",
        "    if claim.standing.suspect_since is not None or claim.is_new_epoch:\n",
        (
            "tests/faults/test_crashes.py::test_row_5_what_dies_anywhere_else_than_between_answer_and_escrow_loses_nothing",
        ),
    ),
    Guard(
        "escrow: one that does not answer withholds the verdict",
        _UNDER_WAY,
        "        unknown = self.escrow_silent and self.claim.claimed_at - since < policy.DAY\n",
        "        unknown = False\n",
        ("tests/faults/test_attacks.py::test_an_escrow_that_cannot_be_asked_withholds_the_verdict",),
    ),
    Guard(
        "candidates: tried before one displaces the row's token",
        "worker/store/candidates.py",
        "UPDATE qbo.connections SET next_refresh_at = now()\n"
        "WHERE id = %(id)s AND status <> 'disconnected' AND (next_refresh_at IS NULL OR next_refresh_at > now())\n",
        "UPDATE qbo.connections c SET next_refresh_at = now(), token_version = token_version + 1,\n"
        "    (refresh_token, refresh_token_fingerprint) = (SELECT x.refresh_token, x.fingerprint\n"
        "        FROM qbo.candidates x WHERE x.connection_id = c.id ORDER BY x.id DESC LIMIT 1)\n"
        "WHERE id = %(id)s AND status <> 'disconnected'\n",
        ("tests/db/test_candidates.py::test_a_candidate_displaces_the_rows_token_only_after_intuit_has_accepted_it",),
    ),
    Guard(
        "candidates: the one received last first",
        "worker/store/candidates.py",
        "ORDER BY received_at DESC, id DESC",
        "ORDER BY received_at, id",
        (
            "tests/db/test_candidates.py::test_candidates_as_new_as_the_row_go_first_then_the_rows_token_then_older_ones",
        ),
    ),
    Guard(
        "candidates: older ones after the row's token",
        _PRESENTING,
        "        if candidate.base_version >= claim.token_version:\n",
        "        if candidate.base_version >= 0:\n",
        (
            "tests/db/test_candidates.py::test_candidates_as_new_as_the_row_go_first_then_the_rows_token_then_older_ones",
        ),
    ),
    Guard(
        "candidates: none that a success has settled",
        "worker/store/candidates.py",
        'AND settled_at IS NULL"\n        " ORDER',
        '"\n        " ORDER',
        (
            "tests/db/test_candidates.py::test_a_candidate_is_presented_until_a_success_settles_it",
            "tests/db/test_candidates.py::test_a_candidate_is_kept_once_and_stays_what_it_is",
        ),
    ),
    Guard(
        "candidates: a refused one is presented again",
        "worker/store/candidates.py",
        'AND settled_at IS NULL"\n        " ORDER',
        'AND tried_at IS NULL"\n        " ORDER',
        ("tests/db/test_candidates.py::test_a_candidate_that_intuit_refused_by_mistake_is_presented_again",),
    ),
    Guard(
        "candidates: each is refused twice before a verdict",
        _VERDICTS,
        "    if _refused_once(evidence, pace):\n        return Withheld.REFUSED_ONCE\n",
        "",
        ("tests/db/test_candidates.py::test_a_verdict_waits_for_a_candidates_second_refusal",),
    ),
    Guard(
        "candidates: what one has replaced is shown after its second refusal",
        _PRESENTING,
        "            if not _believed(attempt, presentable):\n                raise\n",
        "            _believed(attempt, presentable)\n",
        ("tests/db/test_candidates.py::test_a_candidate_that_intuit_refused_by_mistake_is_presented_again",),
    ),
    Guard(
        "candidates: the row's token that waited for one is refused twice, too",
        "worker/store/verdicts.py",
        "max(COALESCE(x.refused_again_at, x.tried_at))",
        "max(x.tried_at)",
        ("tests/db/test_candidates.py::test_a_verdict_waits_for_a_candidates_second_refusal",),
    ),
    Guard(
        "candidates: none of an older grant",
        "worker/store/candidates.py",
        "WHERE c.id = %(id)s AND c.grant_number = %(grant)s AND c.status",
        "WHERE c.id = %(id)s AND c.status",
        ("tests/db/test_candidates.py::test_a_candidate_of_an_older_grant_is_dropped",),
    ),
    Guard(
        "candidates: an untried one withholds the verdict",
        _ANSWERS,
        "    if confirmed and not standing.untried and not standing.is_taken_over:\n",
        "    if confirmed and not standing.is_taken_over:\n",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "candidates: one that comes with the verdict withholds it",
        _VERDICTS,
        "    if evidence.untried:\n        return Withheld.CANDIDATE\n",
        "",
        ("tests/unit/test_answer_properties.py",),
    ),
    Guard(
        "candidates: the previous token last",
        _VERDICTS,
        "    return Withheld.PREVIOUS if evidence.previous_untried else None\n",
        "    return None\n",
        ("tests/db/test_candidates.py::test_the_previous_token_is_presented_before_a_verdict",),
    ),
    Guard(
        "verdict: the second refusal comes later",
        _ANSWERS,
        "now - standing.suspect_since >= pace.confirm_after\n",
        "now - standing.suspect_since >= timedelta(0)\n",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "verdict: a first refusal is none",
        _ANSWERS,
        "    confirmed = confirmed and standing.status is Status.SUSPECT\n",
        "",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "verdict: none over a lease that nobody gave back",
        _ANSWERS,
        "    if confirmed and not standing.untried and not standing.is_taken_over:\n",
        "    if confirmed and not standing.untried:\n",
        corners("test_a_refusal_over_a_lease_that_nobody_gave_back_is_no_verdict"),
    ),
    Guard(
        "verdict: it needs a witness",
        _VERDICTS,
        "    if not evidence.witness and",
        "    if False and",
        _guards("test_without_a_witness_a_verdict_waits_twice_confirm_after_longer"),
    ),
    Guard(
        "verdict: a witness worked after the first refusal",
        "worker/store/verdicts.py",
        " AND w.attempt_began_at >= c.suspect_since AND w.last_refreshed_at >= w.attempt_began_at) AS witness\n",
        ") AS witness\n",
        _guards("test_a_success_before_the_first_refusal_is_no_witness"),
    ),
    Guard(
        "verdict: written whole or not at all",
        _OUTCOMES,
        "    with db.transaction():\n        if decision.status is Status.NEEDS_REAUTH:\n",
        "    if True:\n        if decision.status is Status.NEEDS_REAUTH:\n",
        ("tests/db/test_verdicts.py::test_a_verdict_is_written_whole_or_not_at_all",),
    ),
    Guard(
        "guard: it trips",
        "worker/store/verdicts.py",
        "    if recent <= threshold:\n",
        "    if True:\n",
        _guards("test_the_guard_trips_with_one_more_than_the_threshold_and_tells_once"),
    ),
    Guard(
        "guard: an episode that is over is told anew",
        "worker/store/verdicts.py",
        "    if not _guard(db, claim.app_id, app, app.now).is_open:\n",
        "    if not policy.Guard(app.guard_tripped_at, app.guard_released_at).is_open:\n",
        (
            "tests/faults/test_guard.py::test_a_guard_whose_suspects_have_all_healed_is_over_and_the_next_time_is_told_anew",
        ),
    ),
    Guard(
        "guard: a verdict waits behind it",
        _VERDICTS,
        "    if not (evidence.guard.is_open or evidence.hard_expired or persists):\n",
        "    if False:\n",
        _guards("test_row_18_a_third_of_the_fleet_refused_for_hours_waits_behind_the_guard_and_heals"),
    ),
    Guard(
        "guard: counted under the lock of the app's row",
        "worker/store/verdicts.py",
        "FROM qbo.apps WHERE id = %(app)s FOR UPDATE\n",
        "FROM qbo.apps WHERE id = %(app)s\n",
        _guards("test_suspects_of_the_same_moment_are_counted_one_after_the_other"),
    ),
    Guard(
        "guard: six hours beside a witness open it",
        _VERDICTS,
        "    persists = evidence.witness and evidence.now - since >= GUARD_PATIENCE\n",
        "    persists = False\n",
        _guards("test_refusals_that_persist_six_hours_beside_a_witness_go_through_by_themselves"),
    ),
    Guard(
        "guard: without a witness no time opens it",
        _VERDICTS,
        "    persists = evidence.witness and evidence.now",
        "    persists = evidence.now",
        _guards("test_without_a_witness_no_time_opens_a_guard_that_has_tripped"),
    ),
    Guard(
        "guard: a passed hard expiry is exempt",
        _VERDICTS,
        "evidence.guard.is_open or evidence.hard_expired or persists",
        "evidence.guard.is_open or persists",
        _guards("test_only_a_grant_whose_five_years_are_over_is_exempt_from_the_guard"),
    ),
    Guard(
        "guard: a passed hard expiry does not count",
        "worker/store/verdicts.py",
        "      AND suspect_since > COALESCE(%(released_at)s::timestamptz, '-infinity')\n"
        "      AND (hard_expires_at IS NULL OR hard_expires_at > now())\n",
        "      AND suspect_since > COALESCE(%(released_at)s::timestamptz, '-infinity')\n",
        _guards("test_grants_whose_five_years_are_over_do_not_trip_the_guard"),
    ),
    Guard(
        "clocks: an answer that does not say of the window leaves it",
        _OUTCOMES,
        "COALESCE(now() - %(answered_ago)s::interval + %(refresh_lifetime)s::interval, c.refresh_expires_at),\n",
        "now() - %(answered_ago)s::interval + %(refresh_lifetime)s::interval,\n",
        ("tests/db/test_clocks.py::test_an_answer_that_does_not_say_leaves_what_an_earlier_one_said",),
    ),
    Guard(
        "clocks: an answer that does not say of the end leaves it",
        _OUTCOMES,
        "COALESCE(now() - %(answered_ago)s::interval + %(hard_lifetime)s::interval, c.hard_expires_at) END,",
        "now() - %(answered_ago)s::interval + %(hard_lifetime)s::interval END,",
        ("tests/db/test_clocks.py::test_an_answer_that_does_not_say_leaves_what_an_earlier_one_said",),
    ),
    Guard(
        "clocks: a refresh does not move the end",
        _OUTCOMES,
        "<= %(same_end_s)s\n",
        "< %(same_end_s)s * 0\n",
        ("tests/db/test_clocks.py::test_a_refresh_moves_the_window_and_not_the_end",),
    ),
    Guard(
        "clocks: the end is announced once",
        "worker/policy/expiry.py",
        "    if due is None or (clocks.told_days is not None and clocks.told_days <= due):\n",
        "    if due is None:\n",
        ("tests/unit/test_expiry.py", "tests/db/test_clocks.py"),
    ),
    Guard(
        "clocks: what was announced is remembered",
        _OUTCOMES,
        "    expiry_told_days = COALESCE(%(expiry_told_days)s::smallint, c.expiry_told_days),\n",
        "",
        ("tests/db/test_clocks.py::test_the_end_is_announced_once_at_ninety_thirty_seven_and_one_day",),
    ),
    Guard(
        "clocks: no refresh steps over the last notice",
        _ANSWERS,
        "expiry.in_time(clocks, ends_in, next_refresh_in(standing.connection_id, now=now), now=now)",
        "next_refresh_in(standing.connection_id, now=now)",
        ("tests/unit/test_expiry.py",),
    ),
    Guard(
        "clocks: the same value that counts down is no ceiling",
        "worker/policy/expiry.py",
        "clocks.hard_expires_at is not None or not rotated:",
        "clocks.hard_expires_at is not None:",
        ("tests/unit/test_expiry.py",),
    ),
    Guard(
        "clocks: a window hardly moves in so short a time",
        "worker/policy/expiry.py",
        " or now - obtained_at < _BETWEEN_ROTATIONS:",
        ":",
        ("tests/unit/test_expiry.py",),
    ),
    Guard(
        "clocks: an end that we concluded is told from one that Intuit said",
        _ANSWERS,
        "hard_inferred=None if ends_in is None else answer.hard_lifetime is None,",
        "hard_inferred=None if ends_in is None else False,",
        ("tests/db/test_clocks.py::test_an_end_that_was_concluded_is_called_so_until_intuit_says_it",),
    ),
)

GUARDS: tuple[Guard, ...] = (
    *saving.GUARDS,
    *claiming.GUARDS,
    *sending.GUARDS,
    *_VERDICT,
    *consenting.GUARDS,
    *outside.GUARDS,
)
