from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker import explaining, moments
from worker.policy import Evidence, Guard, Pace, Withheld
from worker.store.history import Attempt, Candidate, Hold, Row, Story, Told

NOW = datetime(2026, 11, 23, 18, 30, 5, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

ROW = Row(
    at=NOW,
    id=7,
    environment="production",
    client_id="ABc",
    label=None,
    external_ids=[],
    status="active",
    grant_number=1,
    token_version=42,
    has_token=True,
    token_obtained_at=NOW - HOUR,
    access_expires_at=NOW,
    refresh_expires_at=NOW + 99 * DAY,
    hard_expires_at=None,
    hard_expires_inferred=False,
    expiry_told_days=None,
    second_writer_at=None,
    is_foreign=False,
    is_leased=False,
    leased_until=None,
    in_doubt=False,
    attempt_began_at=NOW - HOUR,
    attempt_worker="w:1",
    next_refresh_at=NOW + 23 * HOUR,
    not_before=None,
    due_at=NOW + 23 * HOUR,
    queued_until=None,
    frozen=False,
    taken_over=True,
    failures=0,
    suspect_since=None,
    needs_reauth_since=None,
    last_refreshed_at=NOW - HOUR,
    last_secret="current",
    last_outcome="refreshed",
    last_reason=None,
    created_at=NOW - 200 * DAY,
    throttled_until=None,
    everything_frozen=False,
    frozen_reason=None,
    probe_at=None,
)
WELL = Attempt(
    NOW, "sweep", "w:1", "refreshed", None, 250, 1, 200, "tid", "current", rotated=True, withheld=None, token_version=1
)
SUSPECT = replace(
    ROW,
    status="suspect",
    suspect_since=NOW - 16 * MINUTE,
    due_at=NOW + 14 * MINUTE,
    next_refresh_at=NOW,
    not_before=NOW + 14 * MINUTE,
    last_reason="invalid_grant",
)


def attempt(outcome: str, reason: str | None = None, *, ago: timedelta = timedelta(0), **changes: Any) -> Attempt:
    return replace(WELL, began_at=NOW - ago, outcome=outcome, reason=reason, rotated=None, **changes)


def words(*attempts: Attempt) -> list[str]:
    return [entry.words for entry in explaining.timeline(Story(7, None, attempts))]


def ahead(row: Row, why_not: str, **evidence: Any) -> list[str]:
    return list(explaining.ahead(explaining.against(row, why_not, Evidence(NOW, **evidence), pace=Pace())))


def against(row: Row, **evidence: Any) -> tuple[Withheld, ...]:
    return explaining.against(row, "invalid_grant", Evidence(NOW, **evidence), pace=Pace()).against


def test_a_hundred_ordinary_daily_successes_are_one_line() -> None:
    days = [replace(WELL, began_at=NOW - n * DAY, rotated=n != 5) for n in range(100, 0, -1)]
    (entry,) = explaining.timeline(Story(7, None, days))
    assert entry.at == NOW - 100 * DAY
    assert entry.words == "100 refreshes until 2026-11-22 18:30:05, every one well."
    assert "a new refresh token 99 times" in entry.facts


@pytest.mark.parametrize(
    "odd",
    [
        {"trigger": "adhoc"},
        {"secret": "previous"},
        {"reason": "lifetimes_clamped"},
    ],
)
def test_what_is_out_of_the_ordinary_stands_alone(odd: dict[str, Any]) -> None:
    days = [replace(WELL, began_at=NOW - n * DAY) for n in range(9, 0, -1)]
    days[4] = replace(days[4], **odd)
    told = words(*days)
    assert [line.split()[0] for line in told] == ["4", "Refreshed,", "4"]


def test_the_success_that_ends_a_trouble_is_told_and_so_is_what_came_between() -> None:
    trouble = [
        attempt("deferred", "unreachable", ago=10 * DAY),
        *(replace(WELL, began_at=NOW - n * DAY) for n in range(9, 0, -1)),
    ]
    assert words(*trouble)[1] == "Refreshed, a new refresh token. That ended the trouble."
    story = Story(7, None, trouble[1:], events=[Told("connection.expiring", NOW - 5 * DAY - HOUR, None, {"days": 90})])
    told = [entry.words for entry in explaining.timeline(story)]
    assert told[1] == "Told: connection.expiring, the grant's five years end."
    assert len(told) == 3


@pytest.mark.parametrize(
    ("outcome", "reason", "said"),
    [
        ("deferred", "unknown", "the token may be spent"),
        ("deferred", "unreachable", "nothing was sent, nothing is spent"),
        ("deferred", "throttled", "the whole app waits"),
        ("deferred", "lease_spent", "nothing was sent"),
        ("deferred", "escrow_silent", "Redis was away"),
        ("deferred", "wrong_client", "no verdict is made of that"),
        ("deferred", "invalid_scope", "Refused with invalid_scope"),
        ("deferred", "never_heard_of", "not about the grant"),
        ("blocked", "invalid_client", "Nothing changed for this connection"),
        ("suspect", "invalid_grant", "Syncs wait quietly"),
        ("suspect", "answer_lost", "may have had the live token"),
        ("needs_reauth", "invalid_grant", "nothing stood against it"),
        ("unreadable", "unreadable", "does not open with the keys in TOKEN_KEYS"),
        ("abandoned", None, "The worker died or froze"),
        ("something_new", None, "something_new"),
    ],
)
def test_every_outcome_has_its_words(outcome: str, reason: str | None, said: str) -> None:
    assert said in words(attempt(outcome, reason))[0]


@pytest.mark.parametrize("withheld", Withheld)
def test_a_verdict_that_was_withheld_says_why(withheld: Withheld) -> None:
    (told,) = words(attempt("suspect", "invalid_grant", withheld=str(withheld)))
    assert told.startswith("Refused again (invalid_grant). No verdict was made of it: ")
    assert not told.endswith(f": {withheld}."), "in words"


def test_the_same_refusal_is_called_what_it_was_in_its_place() -> None:
    told = words(
        attempt("suspect", "invalid_grant", ago=3 * HOUR),
        attempt("suspect", "invalid_grant", ago=2 * HOUR),
        attempt("needs_reauth", "invalid_grant", ago=HOUR),
        attempt("needs_reauth", "invalid_grant"),
    )
    assert "too soon to be a verdict" in told[1]
    assert told[3].startswith("Second chance: still refused")


def test_the_facts_name_who_and_how_and_the_support_number() -> None:
    (entry,) = explaining.timeline(Story(7, None, [replace(WELL, posts=2, secret="previous", trigger="adhoc")]))
    assert entry.facts == ("adhoc by w:1, HTTP 200, 250 ms, 2 calls, with the previous client secret, intuit_tid tid")


def test_a_candidate_says_where_it_came_from_and_whether_it_was_tried() -> None:
    candidates = [
        Candidate("escrow", NOW, None, None),
        Candidate("salvage", NOW, NOW, None),
        Candidate("import", NOW, NOW, NOW + MINUTE),
    ]
    story = Story(7, None, (), candidates=candidates)
    told = [entry.words for entry in explaining.timeline(story)]
    assert told == [
        "A token that may be the live one was kept, found in the escrow in Redis: not tried yet.",
        "A token that may be the live one was kept, read out of a broken answer: refused 2026-11-23 18:30:05.",
        "A token that may be the live one was kept, from an import: settled by a success 2026-11-23 18:31:05.",
    ]


def test_a_payloads_link_is_not_shown() -> None:
    told = Told(
        "connection.needs_reauth", NOW, NOW + 2 * timedelta(seconds=1), {"reason": "x", "link": "https://canary"}
    )
    (entry,) = explaining.timeline(Story(7, None, (), events=[told]))
    assert entry.facts == "reason x, delivered after 2 s"


def test_a_suspect_that_nothing_protects_is_told_when_it_becomes_a_verdict() -> None:
    assert against(SUSPECT, witness=True) == ()
    said = ahead(SUSPECT, "invalid_grant", witness=True)
    assert said[0] == (
        "It pauses after its last attempt (invalid_grant) until 2026-11-23 18:44:05, in 14 min; then it is asked"
        " again. No caller shortens that."
    )
    assert said[1].startswith("If Intuit refuses it then, 2026-11-23 18:44:05, in 14 min, it becomes needs_reauth")


def test_all_that_stands_against_a_verdict_is_told_with_its_end() -> None:
    everything = {
        "untried": True,
        "candidate_refused_at": NOW,
        "witness": False,
        "guard": Guard(NOW - MINUTE),
        "epoch_since": NOW - HOUR,
        "previous_untried": True,
    }
    row = replace(SUSPECT, in_doubt=True, is_leased=True, leased_until=NOW + MINUTE)
    assert set(against(row, **everything)) == set(Withheld)
    said = "\n".join(ahead(row, "invalid_grant", **everything))
    assert "within a day, so that the row's token may be an old one; until 2026-11-24 17:30:05, in 23 h" in said
    assert "until `qbo-refresh guard release`, or 2026-11-24 00:14:05 if others work by then" in said
    assert "until one works, or 2026-11-23 18:59:05, in 29 min" in said
    assert "refused only once so far; its second refusal counts from 2026-11-23 18:45:05, in 15 min" in said
    assert said.count(": it is presented first") == 2


def test_what_will_be_over_by_then_does_not_stand_against_it() -> None:
    late = replace(SUSPECT, suspect_since=NOW - 40 * MINUTE)
    assert against(late) == (), "alone for 45 minutes at the next attempt"
    assert against(late, epoch_since=NOW - DAY + 10 * MINUTE) == ()


@pytest.mark.parametrize(
    ("row", "why_not", "said"),
    [
        (ROW, "not_due", "Its next refresh is at 2026-11-24 17:30:05, in 23 h."),
        (replace(ROW, due_at=NOW), "in_progress", "It is due: the next sweep takes it."),
        (replace(ROW, is_leased=True), "in_progress", "An attempt is under way now."),
        (replace(ROW, frozen=True), "frozen", "`qbo-refresh thaw 7` ends it"),
        (replace(ROW, everything_frozen=True, frozen_reason="move"), "frozen", "Everything is frozen (move)"),
        (
            replace(ROW, frozen=True, everything_frozen=True, frozen_reason="move"),
            "frozen",
            "Everything is frozen (move), and this connection by itself, too: `qbo-refresh thaw --all` and",
        ),
        (ROW, "no_control_row", "control is missing"),
        (ROW, "database_changed", "the database has changed"),
        (ROW, "no_keys", "not in this configuration"),
        (replace(ROW, throttled_until=NOW + MINUTE), "throttled", "nothing goes before 2026-11-23 18:31:05, in 60 s"),
        (replace(ROW, probe_at=NOW + MINUTE), "blocked", "next at 2026-11-23 18:31:05"),
        (replace(ROW, status="disconnected"), "disconnected", "it was ended"),
        (replace(ROW, status="needs_reauth", due_at=None), "needs_reauth", "Reconnecting helps"),
        (replace(ROW, status="needs_reauth"), "not_due", "A second chance: it is asked once more at 2026-11-24"),
        (replace(ROW, due_at=None), "active", "No refresh is planned"),
        (
            replace(ROW, in_doubt=True, is_leased=True, leased_until=NOW + MINUTE),
            "unknown",
            "the same token is presented again when the lease is over, 2026-11-23 18:31:05",
        ),
    ],
)
def test_every_reason_why_not_has_its_words(row: Row, why_not: str, said: str) -> None:
    assert said in ahead(row, why_not)[0]


def test_the_last_clock_is_told_before_it_runs_out() -> None:
    ends = replace(ROW, hard_expires_at=NOW + 20 * DAY)
    assert "ends in 20 days, whatever is done" in ahead(ends, "not_due")[1]
    assert "told again 7, 1 days before" in ahead(ends, "not_due")[1]
    assert len(ahead(replace(ROW, hard_expires_at=NOW + 900 * DAY), "not_due")) == 1
    assert "only a reconnect helps" in ahead(replace(ROW, hard_expires_at=NOW - DAY), "not_due")[1]


def test_an_end_that_intuit_did_not_say_is_called_inferred_wherever_it_is_told() -> None:
    inferred = replace(ROW, hard_expires_at=NOW + 20 * DAY, hard_expires_inferred=True)
    over = replace(inferred, hard_expires_at=NOW - DAY)
    assert ahead(inferred, "not_due")[1].startswith(
        "Its grant ends in 20 days (inferred, not said by Intuit), whatever"
    )
    assert "over (inferred, not said by Intuit)" in ahead(over, "not_due")[1]
    for row, told in ((inferred, True), (replace(inferred, hard_expires_inferred=False), False)):
        limit = dict(explaining.standing(Story(7, row, ())))["hard limit"]
        assert ("inferred, not said by Intuit" in limit) is told
        assert ("inferred" in ahead(row, "not_due")[1]) is told


def test_where_it_stands_names_status_syncs_clocks_and_a_second_writer() -> None:
    row = replace(SUSPECT, second_writer_at=NOW - HOUR, last_secret="previous", expiry_told_days=30)
    stands = dict(explaining.standing(Story(7, row, (), holds=[Hold("suspect", NOW - MINUTE, None)])))
    assert (
        stands["status"] == "suspect: Intuit first refused the grant 2026-11-23 18:14:05, 16 min ago; nobody was told"
    )
    assert stands["syncs"] == "paused: suspect since 2026-11-23 18:29:05, 60 s ago"
    assert stands["rolling"].startswith("ends 2027-03-02 18:30:05, in 99 days")
    assert stands["hard limit"].startswith("not known")
    assert "stop the old system" in stands["writer"]
    assert "with the previous client secret" in stands["token"]


@pytest.mark.parametrize(
    ("duration", "said"),
    [(60, "60 s"), (95, "2 min"), (5400, "2 h"), (49 * 3600, "2 days"), (5 * 365.25 * 86400, "5.0 years")],
)
def test_durations_come_in_the_unit_that_a_person_would_use(duration: float, said: str) -> None:
    assert moments.long(timedelta(seconds=duration)) == said
