from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from qbo_refresh.status import Status
from worker.cli.demo import next_steps
from worker.demo import report
from worker.demo.evidence import NOBODY, Attempt, Call, Evidence, Row
from worker.demo.plan import FEWEST, MOST, Plan
from worker.demo.scenes import Kill

KILLED_AT = datetime(2026, 1, 1, tzinfo=UTC)
VICTIM, OTHER = "host:1", "host:2"


def attempt(connection_id: int, outcome: str, *, reason: str | None = None, worker: str = OTHER) -> Attempt:
    ended_at = None if outcome == "abandoned" else KILLED_AT + timedelta(seconds=13)
    posts = None if outcome == "abandoned" else 1
    return Attempt(connection_id, outcome, reason, worker, posts, 900 if outcome == "refreshed" else None, ended_at)


def good() -> Evidence:
    """1 met a wrong secret and refusals first, 2 the outage, 3 the kill, 4 was revoked."""
    held = frozenset({"reauth"})
    return Evidence(
        rows=(
            *(Row(n, Status.ACTIVE, f"new{n}", f"new{n}", is_revoked=False) for n in (1, 2, 3)),
            Row(4, Status.NEEDS_REAUTH, "old4", "old4", is_revoked=True, holds=held, verdicts=1),
        ),
        attempts=(
            attempt(1, "blocked", reason="invalid_client"),
            attempt(1, "suspect", reason="invalid_grant"),
            attempt(1, "refreshed"),
            attempt(2, "deferred", reason="unknown"),
            attempt(2, "refreshed"),
            attempt(3, "abandoned", worker=VICTIM),
            attempt(3, "refreshed"),
            attempt(4, "suspect", reason="invalid_grant"),
            attempt(4, "needs_reauth", reason="invalid_grant"),
        ),
        calls=(
            Call(1, "old1", 0.1, 0.2),
            Call(1, "old1", 0.3, 0.4, is_refusal=True),
            Call(1, "old1", 1, 2),
            Call(2, "old2", 1, 2, is_outage=True),
            Call(2, "old2", 14, 15),
            Call(3, "old3", 3, 4),
            Call(3, "old3", 16, 17),
            Call(4, "old4", 1, 2),
            Call(4, "old4", 7, 8),
        ),
        kill=Kill(VICTIM, KILLED_AT, frozenset({3})),
        is_over=True,
        died=(),
        in_clear=(),
        workers={VICTIM: "worker 1", OTHER: "worker 2"},
        outage_s=4,
        took_s=30,
        operators=("app.blocked", "app.unblocked", "guard.tripped"),
        secret_s=10,
        refusals_s=10,
    )


def with_row(evidence: Evidence, number: int, **changes: object) -> Evidence:
    rows = list(evidence.rows)
    rows[number - 1] = replace(rows[number - 1], **changes)  # type: ignore[arg-type]  # tables of changes
    return replace(evidence, rows=tuple(rows))


def with_attempts(evidence: Evidence, *more: Attempt) -> Evidence:
    return replace(evidence, attempts=(*evidence.attempts, *more))


def without_attempt(evidence: Evidence, connection_id: int, outcome: str) -> Evidence:
    kept = [a for a in evidence.attempts if (a.connection_id, a.outcome) != (connection_id, outcome)]
    return replace(evidence, attempts=tuple(kept))


def with_call(evidence: Evidence, call: Call) -> Evidence:
    return replace(evidence, calls=(*evidence.calls, call))


def broken(evidence: Evidence) -> set[str]:
    return {check.name for check in report.judge(evidence).checks if not check.holds}


def test_a_good_end_keeps_every_promise() -> None:
    judged = report.judge(good())
    assert judged.all_hold
    assert judged.figures["recovered_s"] == 13
    assert judged.as_dict()["all_hold"] is True


VIOLATIONS: list[tuple[str, Callable[[Evidence], Evidence], set[str]]] = [
    ("a token differs", lambda e: with_row(e, 1, token="old1"), {"tokens_current"}),
    ("a blob does not open", lambda e: with_row(e, 1, token=None), {"tokens_current"}),
    (
        "two calls at once with one token, wherever they are in the journal",
        lambda e: with_attempts(with_call(e, Call(1, "old1", 1.5, 3)), attempt(1, "deferred")),
        {"never_two_at_once"},
    ),
    (
        "a replaced token was presented",
        lambda e: with_attempts(with_call(e, Call(1, "older1", 5, 6, was_superseded=True)), attempt(1, "deferred")),
        {"replaced_tokens_rest"},
    ),
    ("a revoked grant is not marked", lambda e: with_row(e, 4, status=Status.SUSPECT), {"revoked_marked"}),
    ("its syncs are not held", lambda e: with_row(e, 4, holds=frozenset()), {"revoked_marked"}),
    ("nobody was told", lambda e: with_row(e, 4, verdicts=0), {"revoked_marked"}),
    ("the host was told twice", lambda e: with_row(e, 4, verdicts=2), {"revoked_marked"}),
    (
        "a healthy one is marked",
        lambda e: with_row(e, 2, status=Status.NEEDS_REAUTH, verdicts=1),
        {"refreshed_once", "revoked_marked"},
    ),
    (
        "one that met the wrong secret and the refusals was given up for a while",
        lambda e: with_row(e, 1, verdicts=1),
        {"revoked_marked", "secret_survived", "refusals_survived"},
    ),
    ("nobody was told of the wrong secret", lambda e: replace(e, operators=()), {"secret_survived"}),
    (
        "operators were told twice",
        lambda e: replace(e, operators=("app.blocked", "app.blocked", "app.unblocked")),
        {"secret_survived"},
    ),
    (
        "nobody met the refusals",
        lambda e: replace(e, calls=tuple(replace(call, is_refusal=False) for call in e.calls)),
        {"refusals_survived"},
    ),
    ("a healthy one is still held", lambda e: with_row(e, 1, holds=frozenset({"suspect"})), {"refreshed_once"}),
    (
        "one was never refreshed, though its call is in the journal",
        lambda e: without_attempt(e, 1, "refreshed"),
        {"refreshed_once", "books_agree"},
    ),
    (
        "one was refreshed twice",
        lambda e: with_attempts(with_call(e, Call(1, "new1", 20, 21)), attempt(1, "refreshed")),
        {"refreshed_once"},
    ),
    ("Intuit saw a call that no ledger has", lambda e: with_call(e, Call(1, "old1", 9, 10)), {"books_agree"}),
    ("Intuit saw a token that it never issued", lambda e: with_call(e, Call(NOBODY, "?", 9, 10)), {"books_agree"}),
    (
        "the ledger has a call that Intuit never saw",
        lambda e: with_attempts(e, attempt(1, "deferred")),
        {"books_agree"},
    ),
    (
        "nobody found the killed attempt",
        lambda e: without_attempt(e, 3, "abandoned"),
        {"killed_recovered", "books_agree"},
    ),
    (
        "it was not recovered",
        lambda e: without_attempt(e, 3, "refreshed"),
        {"refreshed_once", "killed_recovered", "books_agree"},
    ),
    ("no worker was killed", lambda e: replace(e, kill=None), {"killed_recovered"}),
    (
        "a call that met the outage was not in doubt",
        lambda e: without_attempt(e, 2, "deferred"),
        {"outage_survived", "books_agree"},
    ),
    ("a token lies open in a log", lambda e: replace(e, in_clear=("worker-1.log",)), {"nothing_in_clear"}),
    ("time was up", lambda e: replace(e, is_over=False), {"finished"}),
    ("beat died", lambda e: replace(e, died=("beat",)), {"finished"}),
]


@pytest.mark.parametrize(
    ("change", "expected"), [pytest.param(change, expected, id=name) for name, change, expected in VIOLATIONS]
)
def test_each_violation_is_found_and_no_other_check_blamed(
    change: Callable[[Evidence], Evidence], expected: set[str]
) -> None:
    assert broken(change(good())) == expected


def test_a_demo_in_which_nothing_happened_proves_nothing() -> None:
    nothing = replace(good(), rows=(), attempts=(), calls=(), kill=None)
    assert broken(nothing) >= {
        "refreshed_once",
        "tokens_current",
        "never_two_at_once",
        "revoked_marked",
        "outage_survived",
    }


@pytest.mark.parametrize("connections", [FEWEST, 40, 60, 100, 199, 200, MOST])
def test_every_size_of_fleet_has_a_plan(connections: int) -> None:
    plan = Plan(connections, seed=7)
    revoked = plan.revoked()
    # More than these would trip the guard against mass verdicts, of the connections that are still active.
    assert 3 <= len(revoked) <= max(3, (connections - len(revoked)) * 0.05)
    assert max(revoked) < connections / 2
    assert plan.revoked() == revoked
    assert sum(count for count, _ in plan.ages_s()) == connections
    assert [age for _, age in plan.ages_s()] == sorted((age for _, age in plan.ages_s()), reverse=True)


def test_how_often_operators_were_told_is_said_in_words() -> None:
    def words(evidence: Evidence) -> str:
        return " ".join(check.words for check in report.judge(evidence).checks)

    assert "operators told once, " in words(good())
    assert "the guard tripped once, " in words(good())
    assert "operators told 0 times, " in words(replace(good(), operators=()))


@pytest.mark.parametrize("program", ["qbo-refresh", ".venv/bin/qbo-refresh"])
def test_the_next_steps_can_be_typed_as_they_stand_on_80_columns(program: str) -> None:
    lines = next_steps(program).splitlines()
    assert f"  4. {program} migrate " in next_steps(program)
    assert max(map(len, lines)) < 80
