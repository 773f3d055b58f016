"""What is said at the end: the checks and the figures. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.demo import checks

if TYPE_CHECKING:
    from worker.demo.checks import Check
    from worker.demo.evidence import Evidence


@dataclass(frozen=True, slots=True)
class Report:
    """What is said at the end."""

    checks: tuple[Check, ...]
    figures: dict[str, object]

    @property
    def all_hold(self) -> bool:
        """Whether every promise was kept."""
        return all(check.holds for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return it for `--json`."""
        rows = [
            {"name": check.name, "holds": check.holds, "words": check.words, "wrong": list(check.wrong)}
            for check in self.checks
        ]
        return {"all_hold": self.all_hold, "checks": rows, "figures": self.figures}


def judge(evidence: Evidence) -> Report:
    """Check every promise."""
    made = (
        checks.over(evidence),
        checks.refreshed(evidence),
        checks.tokens_agree(evidence),
        checks.never_two_at_once(evidence),
        checks.replaced_ones_rest(evidence),
        checks.revoked_are_marked(evidence),
        checks.outage_is_survived(evidence),
        checks.killed_are_recovered(evidence),
        checks.wrong_secret_changes_nobody(evidence),
        checks.refusals_are_not_believed(evidence),
        checks.books_agree(evidence),
        checks.nothing_in_clear(evidence),
    )
    return Report(made, _figures(evidence))


def _figures(evidence: Evidence) -> dict[str, object]:
    attempts = evidence.attempts
    exposed = sorted(attempt.exposed_us for attempt in attempts if attempt.exposed_us is not None)
    recovered = checks.recovered_s(evidence)
    return {
        "connections": len(evidence.rows),
        "statuses": dict(Counter(str(row.status) for row in evidence.rows)),
        "attempts": dict(Counter(" ".join(filter(None, (a.outcome, a.reason))) for a in attempts).most_common()),
        "calls_at_intuit": len(evidence.calls),
        "calls_in_outage": sum(call.is_outage for call in evidence.calls),
        "caught_by_kill": len(evidence.kill.caught) if evidence.kill else 0,
        "recovered_s": None if recovered is None else round(recovered, 1),
        "exposed_us_p50": _quantile(exposed, 0.5),
        "exposed_us_p99": _quantile(exposed, 0.99),
        "took_s": round(evidence.took_s, 1),
    }


def _quantile(ordered: list[int], share: float) -> int | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
