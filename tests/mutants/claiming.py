"""The guards of the sweep and of the claim."""

from __future__ import annotations

from tests.mutants.guard import Guard, corners

_CLAIMS = "worker/store/claims.py"
_REFRESH = "worker/refresh/__init__.py"
_PRESENTING = "worker/refresh/presenting.py"
_VERDICTS = "worker/policy/verdicts.py"


CLAIMING = (
    Guard(
        "claim: a lease that lasts is nobody else's",
        _CLAIMS,
        "      AND (c.lease_id IS NULL OR c.leased_until <= now() OR c.lease_id = %(lease)s)\n",
        "",
        ("tests/db/test_claims.py::test_a_leased_connection_is_not_claimed_by_anybody",),
    ),
    Guard(
        "claim: not_before binds everybody",
        _CLAIMS,
        "      AND (c.not_before IS NULL OR c.not_before <= now())\n",
        "",
        ("tests/db/test_claims.py::test_what_binds_everybody_binds_a_forced_caller",),
    ),
    Guard(
        "claim: a throttled app pauses as a whole",
        _CLAIMS,
        "      AND (a.throttled_until IS NULL OR a.throttled_until <= now())\n      AND c.app_id",
        "      AND c.app_id",
        ("tests/db/test_claims.py::test_a_throttled_app_pauses_as_a_whole_and_no_longer_than_that",),
    ),
    Guard(
        "claim: the freeze is read in it",
        _CLAIMS,
        "JOIN qbo.control g ON NOT g.frozen AND {SAME_DATABASE}",
        "JOIN qbo.control g ON {SAME_DATABASE}",
        ("tests/db/test_claims.py::test_nothing_is_claimed_while_everything_is_frozen",),
    ),
    Guard(
        "claim: a frozen row is not claimed",
        _CLAIMS,
        "c.next_refresh_at IS NOT NULL AND NOT c.frozen\n",
        "c.next_refresh_at IS NOT NULL\n",
        ("tests/db/test_claims.py::test_what_binds_everybody_binds_a_forced_caller",),
    ),
    Guard(
        "claim: what never goes is not forced",
        _CLAIMS,
        "      AND c.next_refresh_at IS NOT NULL AND NOT c.frozen\n",
        "      AND NOT c.frozen\n",
        ("tests/db/test_claims.py::test_what_binds_everybody_binds_a_forced_caller",),
    ),
    Guard(
        "claim: over a dead lease there is doubt",
        _CLAIMS,
        "in_doubt = c.in_doubt OR (held.lease_id IS NOT NULL AND held.lease_id <> %(lease)s),",
        "in_doubt = c.in_doubt,",
        ("tests/db/test_claims.py::test_a_dead_lease_is_taken_over_in_doubt_and_written_down_once",),
    ),
    Guard(
        "claim: a dead attempt is written down",
        _CLAIMS,
        "    WHERE held.lease_id IS NOT NULL AND held.lease_id <> %(lease)s\n    ON CONFLICT",
        "    WHERE false\n    ON CONFLICT",
        ("tests/db/test_claims.py::test_a_dead_lease_is_taken_over_in_doubt_and_written_down_once",),
    ),
    Guard(
        "claim: max_age makes a hundred clicks one call",
        _CLAIMS,
        "ELSE (c.attempt_began_at IS NULL OR c.attempt_began_at <= now() - %(max_age)s::interval\n",
        "ELSE (true OR c.attempt_began_at <= now() - %(max_age)s::interval\n",
        ("tests/db/test_claims.py::test_a_hundred_clicks_within_max_age_are_one_call",),
    ),
    Guard(
        "epoch: the system identifier is compared in the claim",
        _CLAIMS,
        "    COALESCE((SELECT qbo.system_identifier()) = g.system_identifier, true)\n",
        "    true\n",
        ("tests/faults/test_epoch.py::test_row_26_a_copy_of_production_sends_nothing_until_it_is_adopted",),
    ),
    Guard(
        "epoch: nothing is sent for one lease",
        _CLAIMS,
        "    AND (g.epoch_since IS NULL OR g.epoch_since <= now() - %(lasts)s::interval)\n",
        "",
        ("tests/faults/test_epoch.py",),
    ),
    Guard(
        "epoch: verdicts wait a day",
        _VERDICTS,
        "    if epoch_since is None or now - epoch_since >= EPOCH_WAIT:\n        return None\n",
        "    if True:\n        return None\n",
        ("tests/faults/test_epoch.py::test_row_25_after_a_restore_verdicts_wait_a_day_or_for_a_release",),
    ),
    Guard(
        "epoch: the escrow is looked into first",
        _PRESENTING,
        "claim.standing.suspect_since is not None or claim.is_new_epoch:",
        "claim.standing.suspect_since is not None:",
        ("tests/faults/test_epoch.py::test_row_25_a_restored_database_spends_no_stale_token_and_loses_none",),
    ),
    Guard(
        "epoch: an attempt that died looked into no escrow",
        _CLAIMS,
        " OR c.lease_id IS NOT NULL AND NOT EXISTS (\n",
        " OR false AND NOT EXISTS (\n",
        corners(
            "test_a_worker_that_dies_in_its_first_attempt_after_a_restore_leaves_the_look_into_the_escrow_to_the_next"
        ),
    ),
    Guard(
        "epoch: a silent escrow sends nothing",
        _REFRESH,
        "        if claim.is_new_epoch and attempt.escrow_silent:\n",
        "        if False:\n",
        ("tests/faults/test_epoch.py::test_row_25_a_silent_escrow_in_a_new_epoch_sends_nothing",),
    ),
)

SWEEPING = (
    Guard(
        "sweep: what is marked is not published again",
        "worker/store/dispatch.py",
        '_UNMARKED = "(queued_until IS NULL OR queued_until <= now())"',
        '_UNMARKED = "true"',
        ("tests/db/test_sweeps.py::test_what_is_due_is_published_once_and_marked",),
    ),
    Guard(
        "sweep: a mark lapses",
        "worker/store/dispatch.py",
        '_UNMARKED = "(queued_until IS NULL OR queued_until <= now())"',
        '_UNMARKED = "queued_until IS NULL"',
        ("tests/db/test_sweeps.py::test_marks_lapse_so_that_a_lost_message_is_published_again",),
    ),
    Guard(
        "sweep: a row that somebody has locked is passed over",
        "worker/store/dispatch.py",
        "FOR UPDATE SKIP LOCKED\n",
        "FOR UPDATE\n",
        ("tests/db/test_sweeps.py::test_a_row_that_somebody_has_locked_is_passed_over",),
    ),
    Guard(
        "sweep: no more than a thousand go that are far off, whatever the plan",
        "worker/store/dispatch.py",
        "WHERE id = ANY (ARRAY({_FAR_OFF} FOR UPDATE SKIP LOCKED))\n",
        "WHERE id IN ({_FAR_OFF} FOR UPDATE SKIP LOCKED)\n",
        ("tests/db/test_preview_and_sweep.py::test_of_more_than_a_thousand_that_are_far_off_the_same_ones_go",),
    ),
    Guard(
        "sweep: a second beat starts nothing",
        "worker/store/dispatch.py",
        "  AND (swept_at IS NULL OR swept_at <= now() - %(half)s::interval OR swept_at > now())\n",
        "",
        ("tests/db/test_sweeps.py::test_a_second_beat_starts_nothing",),
    ),
    Guard(
        "sweep: nothing behind a long queue",
        "worker/dispatch.py",
        "    if sweep.queue_length() > longest_queue(sweep.per_minute):\n",
        "    if False:\n",
        ("tests/db/test_sweeps.py::test_nothing_is_published_behind_a_queue_of_more_than_two_minutes",),
    ),
    Guard(
        "sweep: after a thaw it starts slowly",
        "worker/policy/schedule.py",
        "    return min(1.0, _FIRST_SHARE * 2.0 ** min(minutes, 10))\n",
        "    return 1.0\n",
        ("tests/unit/test_schedule_core.py::test_a_fleet_that_is_let_go_again_never_goes_faster_than_its_rate",),
    ),
    Guard(
        "sweep: a fleet is spread over the day",
        "worker/policy/schedule.py",
        "        return DAY + min(ahead, LATER)\n",
        "        return DAY\n",
        ("tests/unit/test_policy.py",),
    ),
)

GUARDS = (*CLAIMING, *SWEEPING)
