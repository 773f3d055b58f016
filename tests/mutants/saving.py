"""The guards of the save, and of what a failure writes."""

from __future__ import annotations

from tests.mutants.guard import Guard, corners

_OUTCOMES = "worker/store/outcomes.py"
_REFRESH = "worker/refresh/__init__.py"
_KEEPING = "worker/refresh/keeping.py"
_FIRST_TABLES = "alembic/versions/0001_the_first_tables.py"


def _saves(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/db/test_saves.py::{name}" for name in names)


GUARDS = (
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
        corners("test_a_late_save_does_not_overwrite_what_came_under_the_same_version_after_a_failover"),
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
