"""The guards, each as the text that makes it, the text without it, and the tests that must fail then.

A list by hand and not every mutation that a program can think of: what stands here is what the promises rest on. An
entry whose text no longer stands in its file is an error, so that the list follows the code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard.

    Attributes:
        name: What is removed, for `--only`.
        file: Where it stands, from the root.
        old: Its text, which stands there once.
        new: What is put in its place.
        tests: Node ids of pytest; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_OUTCOMES = "worker/store/outcomes.py"
_CLAIMS = "worker/store/claims.py"
_REFRESH = "worker/refresh/__init__.py"
_PRESENTING = "worker/refresh/presenting.py"
_KEEPING = "worker/refresh/keeping.py"
_UNDER_WAY = "worker/refresh/under_way.py"
_TRANSPORT = "worker/intuit/transport.py"
_ANSWERS = "worker/policy/answers.py"
_VERDICTS = "worker/policy/verdicts.py"
_FIRST_TABLES = "alembic/versions/0001_the_first_tables.py"


def _saves(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/db/test_saves.py::{name}" for name in names)


def _corners(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_corners.py::{name}" for name in names)


def _guards(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/faults/test_guard.py::{name}" for name in names)


_SAVING = (
    Guard(
        "save: the version is compared",
        _OUTCOMES,
        "(row.token_version, row.refresh_token_fingerprint) == (claim.token_version, claim.fingerprint)",
        "row.refresh_token_fingerprint == claim.fingerprint",
        _saves("test_an_unchanged_token_adds_nothing_to_a_row_that_went_on_with_it"),
    ),
    Guard(
        "save: it lands on the very token that its attempt presented",
        _OUTCOMES,
        "    return bool(row.refresh_token_fingerprint == grant.presented[1])\n",
        "    return False\n",
        ("tests/faults/test_late.py::test_row_7_a_save_lands_on_the_very_token_that_its_attempt_presented",),
    ),
    Guard(
        "save: the token is compared, too: a failover lets a version come again",
        _OUTCOMES,
        "(row.token_version, row.refresh_token_fingerprint) == (claim.token_version, claim.fingerprint)",
        "row.token_version == claim.token_version",
        _corners("test_a_late_save_does_not_overwrite_what_came_under_the_same_version_after_a_failover"),
    ),
    Guard(
        "save: the version is compared in the one statement, too",
        _OUTCOMES,
        "WHERE c.id = %(id)s AND c.token_version = %(version)s AND c.lease_id = %(attempt_id)s AND c.status = 'active'",
        "WHERE c.id = %(id)s AND c.lease_id = %(attempt_id)s AND c.status = 'active'",
        _saves("test_an_unchanged_token_adds_nothing_to_a_row_that_went_on_with_it"),
    ),
    Guard(
        "save: only an active row takes the one statement, another has holds to lift",
        _OUTCOMES,
        "AND c.lease_id = %(attempt_id)s AND c.status = 'active'\n",
        "AND c.lease_id = %(attempt_id)s\n",
        _saves("test_a_connection_that_recovers_resumes_its_syncs"),
    ),
    Guard(
        "save: the bare one compares the version",
        _OUTCOMES,
        "  AND (c.token_version = %(version)s AND c.refresh_token_fingerprint",
        "  AND (c.refresh_token_fingerprint",
        _saves(
            "test_an_unchanged_token_adds_nothing_to_a_row_that_went_on_with_it",
            "test_a_bare_save_that_lost_to_a_disconnect_says_so",
        ),
    ),
    Guard(
        "save: one whose COMMIT was not acknowledged is recognised in the ledger",
        _OUTCOMES,
        "    if row.applied:\n",
        "    if False:\n",
        _saves(
            "test_a_save_that_is_repeated_after_a_newer_one_does_not_overwrite_it",
            "test_a_save_that_is_repeated_is_applied_once",
        ),
    ),
    Guard(
        "save: one whose COMMIT was not acknowledged is recognised by its fingerprint",
        _OUTCOMES,
        "return Saved.BEFORE if fingerprint == grant.received.fingerprint else Saved.OVERTAKEN",
        "return Saved.OVERTAKEN",
        _saves("test_a_bare_save_that_is_repeated_leaves_no_candidate"),
    ),
    Guard(
        "save: a late one leaves the lease to who took over",
        _OUTCOMES,
        "    lease_id = CASE WHEN c.lease_id <> %(attempt_id)s THEN c.lease_id END,\n"
        "    leased_until = CASE WHEN c.lease_id <> %(attempt_id)s THEN c.leased_until END,\n"
        "    in_doubt = false",
        "    lease_id = NULL, leased_until = NULL,\n    in_doubt = false",
        _saves("test_late_success_does_not_end_the_lease_of_who_took_over"),
    ),
    Guard(
        "save: repeated until it is acknowledged",
        "worker/database.py",
        "                    if give_up():\n",
        "                    if True:\n",
        (
            "tests/faults/test_outages.py::test_row_24_a_statement_whose_acknowledgement_is_lost_is_applied_once",
            "tests/faults/test_outages.py::test_row_23_postgresql_that_stops_at_the_save_gets_the_token_when_it_is_back",
        ),
    ),
    Guard(
        "save: nothing is claimed while one waits",
        _REFRESH,
        "    if not refresher.may_claim():\n",
        "    if False:\n",
        ("tests/faults/test_outages.py",),
    ),
    Guard(
        "save: what is refused for good becomes a candidate",
        _KEEPING,
        "    store.add_candidate(grant.received, Source.REFUSED_SAVE)\n",
        "",
        (
            "tests/faults/test_outages.py::test_row_23_a_row_whose_every_save_is_refused_becomes_a_candidate_and_the_others_go_on",
        ),
    ),
    Guard(
        "save: what lost the comparison becomes a candidate",
        _KEEPING,
        "        attempt.by.store.add_candidate(received, Source.LATE_SAVE)\n",
        "",
        (
            "tests/faults/test_late.py::test_row_7_a_process_frozen_between_answer_and_save_does_not_overwrite_the_newer_token",
        ),
    ),
    Guard(
        "save: what a disconnect overtook is revoked",
        _OUTCOMES,
        "    if status == Status.DISCONNECTED:\n        return Saved.DISCONNECTED\n",
        "",
        ("tests/faults/test_late.py::test_row_21_what_a_disconnect_overtakes_is_revoked_and_not_kept",),
    ),
    Guard(
        "save: signals wait between answer and save",
        _REFRESH,
        "    with deferred():\n",
        "    if True:\n",
        ("tests/faults/test_crashes.py::test_row_22_a_signal_between_answer_and_save_waits_for_the_save",),
    ),
    Guard(
        "conclude: the lease is checked",
        _OUTCOMES,
        "WHERE c.id = %(id)s AND c.lease_id = %(attempt_id)s AND c.token_version = %(version)s\nRETURNING",
        "WHERE c.id = %(id)s AND c.token_version = %(version)s\nRETURNING",
        _saves("test_late_failure_is_dropped_after_the_lease_was_taken_over"),
    ),
    Guard(
        "conclude: the version is checked",
        _OUTCOMES,
        "WHERE c.id = %(id)s AND c.lease_id = %(attempt_id)s AND c.token_version = %(version)s\nRETURNING",
        "WHERE c.id = %(id)s AND c.lease_id = %(attempt_id)s\nRETURNING",
        _saves(
            "test_late_failure_is_dropped_after_another_version_was_saved",
            "test_a_version_that_was_raised_under_a_lease_overtakes_its_failure",
        ),
    ),
    Guard(
        "version: a trigger lets it only grow",
        _FIRST_TABLES,
        "        NEW.token_version < OLD.token_version\n        OR (",
        "        (",
        ("tests/db/test_migrations.py::test_the_version_only_grows_and_must_when_the_token_changes",),
    ),
    Guard(
        "version: a trigger wants it to grow with each other token",
        _FIRST_TABLES,
        "            AND NEW.token_version = OLD.token_version)\n",
        "            AND false)\n",
        ("tests/db/test_migrations.py::test_the_version_only_grows_and_must_when_the_token_changes",),
    ),
)

_CLAIMING = (
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
        "epoch: a silent escrow sends nothing",
        _REFRESH,
        "        if claim.is_new_epoch and attempt.escrow_silent:\n",
        "        if False:\n",
        ("tests/faults/test_epoch.py::test_row_25_a_silent_escrow_in_a_new_epoch_sends_nothing",),
    ),
)

_SENDING = (
    Guard(
        "send: the gate at the first byte",
        _TRANSPORT,
        "        call.before_first_byte()\n",
        "",
        ("tests/faults/test_late.py::test_row_6_a_process_that_was_frozen_does_not_send_into_the_end_of_its_lease",),
    ),
    Guard(
        "send: a close throws away what was not delivered",
        _TRANSPORT,
        "                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)\n",
        "",
        ("tests/faults/test_late.py::test_row_9_what_lies_in_our_kernel_is_not_delivered_after_we_gave_up",),
    ),
    Guard(
        "send: the kernel drops what is not acknowledged in time",
        _TRANSPORT,
        "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(remaining * 1000)))",
        "pass",
        ("tests/unit/test_transport_options.py",),
    ),
    Guard(
        "send: one deadline for all of it",
        _TRANSPORT,
        "        self._sock.settimeout(max(0.0, left))\n",
        "        self._sock.settimeout(20)\n",
        ("tests/faults/test_late.py::test_row_10_a_byte_now_and_then_does_not_outlive_the_deadline",),
    ),
    Guard(
        "send: redirects are not followed",
        _TRANSPORT,
        "                    retries=False,\n                    redirect=False,\n",
        "                    retries=3,\n                    redirect=True,\n",
        ("tests/faults/test_answers.py::test_row_13_a_redirect_to_the_endpoint_itself_sends_the_token_no_second_time",),
    ),
    Guard(
        "send: the body is capped",
        _TRANSPORT,
        "        while len(received) <= BODY_CAP_BYTES and (",
        "        while len(received) <= 10**9 and (",
        ("tests/faults/test_answers.py::test_row_12_a_huge_answer_takes_no_memory_and_costs_no_token",),
    ),
    Guard(
        "send: what was unpacked is capped",
        _TRANSPORT,
        "unpacker.decompress(body, BODY_CAP_BYTES)",
        "unpacker.decompress(body)",
        ("tests/faults/test_answers.py::test_row_12_a_huge_answer_takes_no_memory_and_costs_no_token",),
    ),
    Guard(
        "send: a socket left idle is not used again",
        _TRANSPORT,
        "return clock.boottime() - self._idle_since < _call.get().idle_limit_s and super().is_connected",
        "return super().is_connected",
        ("tests/unit/test_transport_options.py",),
    ),
    Guard(
        "answer: only a 400 is invalid_grant",
        "worker/intuit/endpoint.py",
        '    if code == "invalid_grant" and status == HTTPStatus.BAD_REQUEST:\n',
        '    if code == "invalid_grant":\n',
        ("tests/unit/test_classify.py",),
    ),
    Guard(
        "answer: what is not known to be unprocessed is in doubt",
        "worker/intuit/endpoint.py",
        "        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNAUTHORIZED if body",
        "        case _ if body",
        ("tests/unit/test_classify.py",),
    ),
    Guard(
        "answer: a body that was cut decides nothing",
        "worker/intuit/endpoint.py",
        "    body = tokens.decode(text) if answer.complete else None\n",
        "    body = tokens.decode(text)\n",
        ("tests/unit/test_classify.py",),
    ),
    Guard(
        "answer: what is salvaged has a plausible length",
        "worker/tokens.py",
        "{20,512}",
        "{20,9000}",
        ("tests/unit/test_tokens.py",),
    ),
    Guard(
        "answer: lifetimes are clamped",
        "worker/tokens.py",
        "    clamped = min(max(access or SHORTEST_ACCESS, SHORTEST_ACCESS), LONGEST_ACCESS)\n",
        "    clamped = access or SHORTEST_ACCESS\n",
        ("tests/unit/test_tokens.py",),
    ),
    Guard(
        "doubt: the lease is kept",
        _ANSWERS,
        "        keep_lease=True,\n",
        "        keep_lease=False,\n",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "throttle: bounded",
        _ANSWERS,
        "    return max(timedelta(seconds=1), min(pause, LONGEST_THROTTLE))\n",
        "    return pause\n",
        ("tests/unit/test_policy.py",),
    ),
    Guard(
        "keys: the previous secret is tried",
        _PRESENTING,
        "    for secret in _secrets(attempt):\n",
        "    for secret in _secrets(attempt)[:1]:\n",
        ("tests/faults/test_refusals.py::test_row_20_the_previous_secret_is_tried_when_the_new_one_is_refused",),
    ),
    Guard(
        "keys: a block is one secret's",
        _CLAIMS,
        "AND b.secret_hash = k.hash AND b.blocked_at IS NOT NULL))\n",
        "AND b.blocked_at IS NOT NULL))\n",
        (
            "tests/db/test_app_blocks.py::test_a_deployment_with_another_secret_is_not_blocked",
            "tests/db/test_app_blocks.py::test_a_worker_with_one_good_secret_of_two_goes_on",
        ),
    ),
    Guard(
        "keys: other codes block after three connections",
        "worker/policy/pace.py",
        "REFUSALS_THAT_BLOCK = 3",
        "REFUSALS_THAT_BLOCK = 1",
        ("tests/db/test_app_blocks.py::test_an_odd_row_alone_blocks_nothing_and_three_do",),
    ),
    Guard(
        "keys: three different connections",
        "worker/store/apps.py",
        "CASE WHEN %(id)s = ANY (b.connection_ids) OR cardinality",
        "CASE WHEN cardinality",
        ("tests/db/test_app_blocks.py::test_an_odd_row_alone_blocks_nothing_and_three_do",),
    ),
    Guard(
        "keys: a description that blames them withholds a verdict",
        _ANSWERS,
        "        case GrantRejected(perhaps_our_keys=False):\n",
        "        case GrantRejected():\n",
        ("tests/unit/test_policy.py",),
    ),
)

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
        _corners("test_a_refusal_over_a_lease_that_nobody_gave_back_is_no_verdict"),
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
        ("tests/db/test_clocks.py::test_without_the_field_the_same_value_that_counts_down_is_no_ceiling",),
    ),
    Guard(
        "clocks: a window hardly moves in so short a time",
        "worker/policy/expiry.py",
        " or now - obtained_at < _BETWEEN_ROTATIONS:",
        ":",
        ("tests/unit/test_expiry.py",),
    ),
)

_PLACES = tuple(
    Guard(
        f"sealing: a blob knows its {what}",
        "qbo_refresh/sealing.py",
        '|{self.environment}|{self.connection_id}|{self.grant_number}|{self.field}".encode()',
        '|{self.environment}|{self.connection_id}|{self.grant_number}|{self.field}".encode()'.replace(text, ""),
        (
            "tests/unit/test_sealing.py::test_a_blob_that_was_moved_does_not_open",
            "tests/unit/test_sealing.py::test_a_blob_of_another_field_under_the_same_key_does_not_open",
        ),
    )
    for what, text in (
        ("environment", "|{self.environment}"),
        ("connection", "|{self.connection_id}"),
        ("grant", "|{self.grant_number}"),
        ("field", "|{self.field}"),
    )
)

_SWEEPING = (
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

_AUTHORIZING = "qbo_refresh/authorizing.py"
_STATES = "tests/db/test_states.py::"

_CONSENT: tuple[Guard, ...] = (
    Guard(
        "consent: the state's signature",
        "qbo_refresh/consent_state.py",
        "    if not hmac.compare_digest(signature, expected):\n",
        "    if False:\n",
        (
            _STATES + "test_a_state_that_was_changed_anywhere_is_refused",
            _STATES + "test_a_state_of_another_session_is_refused",
        ),
    ),
    Guard(
        "consent: the session, in the row too",
        _AUTHORIZING,
        "WHERE state_hash = %(state)s AND session_hash = %(session)s AND used_at IS NULL AND expires_at > now()",
        "WHERE state_hash = %(state)s AND used_at IS NULL AND expires_at > now()",
        (_STATES + "test_a_session_is_compared_in_the_row_too",),
    ),
    Guard(
        "consent: a state is used once",
        _AUTHORIZING,
        "session_hash = %(session)s AND used_at IS NULL AND expires_at > now()",
        "session_hash = %(session)s AND expires_at > now()",
        (_STATES + "test_a_state_of_this_session_is_taken_once_and_the_same_call_again_is_the_same",),
    ),
    Guard(
        "consent: one code of a company at a time, also one that a disconnect has ended",
        "worker/store/authorizations.py",
        "                    AND o.leased_until > now())\n",
        "                    AND o.finished_at IS NULL AND o.leased_until > now())\n",
        _corners("test_a_consent_waits_for_a_code_that_a_disconnect_overtook_on_its_way"),
    ),
    Guard(
        "consent: a state is good for ten minutes",
        _AUTHORIZING,
        "AND used_at IS NULL AND expires_at > now()",
        "AND used_at IS NULL",
        (_STATES + "test_a_state_is_good_for_ten_minutes",),
    ),
)

GUARDS: tuple[Guard, ...] = (*_SAVING, *_CLAIMING, *_SENDING, *_VERDICT, *_PLACES, *_SWEEPING, *_CONSENT)
