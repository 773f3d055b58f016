"""The guards of sealed places and of consents."""

from __future__ import annotations

from tests.mutants.guard import Guard, corners

PLACES = tuple(
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

REPLAY = Guard(
    "sealing: an older blob of the same row is not its token",
    "worker/refresh/presenting.py",
    "    if attempt.by.lookup.fingerprint(token) != presentable.fingerprint:\n",
    "    if False:\n",
    ("tests/faults/test_rows.py::test_row_27_an_older_token_of_the_same_row_put_back_is_unreadable",),
)

_AUTHORIZING = "qbo_refresh/authorizing.py"
_STATES = "tests/db/test_states.py::"
_GRANTS = "tests/faults/test_grants.py::"
_EXCHANGE = "tests/db/test_exchange.py::"

CONSENT: tuple[Guard, ...] = (
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
        corners("test_a_consent_waits_for_a_code_that_a_disconnect_overtook_on_its_way"),
    ),
    Guard(
        "consent: what a dead exchange left is revoked once a disconnect has ended it",
        "worker/store/endings.py",
        "        if revoke:\n            revocations.add_consents(",
        "        if False:\n            revocations.add_consents(",
        (_GRANTS + "test_row_21_what_a_dead_exchange_left_of_a_consent_that_a_disconnect_has_ended_is_revoked",),
    ),
    Guard(
        "consent: a throttled app exchanges nothing",
        "worker/store/authorizations.py",
        "  AND NOT EXISTS (SELECT FROM qbo.apps a WHERE a.id = z.app_id AND a.throttled_until > now())\n",
        "",
        (_EXCHANGE + "test_row_14_a_throttled_exchange_pauses_the_whole_app_for_a_quarter_of_an_hour_at_most",),
    ),
    Guard(
        "consent: a code that may be spent does not end by its age",
        "worker/store/authorizations.py",
        'AND finished_at IS NULL AND presented_at IS NULL"',
        'AND finished_at IS NULL"',
        (_EXCHANGE + "test_a_code_that_may_be_spent_does_not_end_by_its_age",),
    ),
    Guard(
        "consent: a state is good for ten minutes",
        _AUTHORIZING,
        "AND used_at IS NULL AND expires_at > now()",
        "AND used_at IS NULL",
        (_STATES + "test_a_state_is_good_for_ten_minutes",),
    ),
)

GUARDS = (*PLACES, REPLAY, *CONSENT)
