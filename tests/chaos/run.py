"""One run from beginning to end: start, harm, mend, wait until all is at rest, look."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.chaos import checker, report
from tests.chaos.collect import collect
from tests.chaos.nemesis import Nemesis, release_guard
from tests.chaos.people import People
from tests.chaos.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.chaos.history import History
    from tests.chaos.plan import Plan

SETTLES_WITHIN_S = 180.0
_TELL_EVERY_S = 10.0

_RESTLESS = """
SELECT (SELECT count(*) FROM qbo.connections WHERE status NOT IN ('active', 'disconnected')) AS "not active",
       (SELECT count(*) FROM qbo.connections WHERE status = 'active'
        AND (last_refreshed_at IS NULL OR last_refreshed_at < to_timestamp(%(since)s))) AS "not refreshed since",
       (SELECT count(*) FROM qbo.connections WHERE lease_id IS NOT NULL AND leased_until > now()) AS "under way",
       (SELECT count(*) FROM qbo.outbox WHERE delivered_at IS NULL) AS "events not delivered",
       (SELECT count(*) FROM qbo.authorizations WHERE used_at IS NOT NULL AND finished_at IS NULL)
           AS "consents not finished",
       (SELECT count(*) FROM qbo.candidates x JOIN qbo.connections c ON c.id = x.connection_id
        AND c.grant_number = x.grant_number WHERE x.tried_at IS NULL) AS "candidates not tried"
"""
_EVERYBODY_ONCE_MORE = """
UPDATE qbo.connections SET next_refresh_at = now()
WHERE status = 'active' AND last_refreshed_at < to_timestamp(%(since)s) AND next_refresh_at > now()
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        kept: Where logs and history are, if something was violated or it was asked for.
    """

    history: History
    verdict: checker.Verdict
    figures: dict[str, Any]
    kept: Path | None


def run(plan: Plan, *, say: Callable[[str], None], keep: bool = False) -> Outcome:
    """Carry out a plan and judge what it came to.

    Args:
        plan: What goes wrong.
        say: Told how far it is.
        keep: Keep logs and history although nothing was violated.
    """
    say(f"Seed {plan.seed}, {plan.minutes:g} min, {plan.connections} connections, {plan.workers} workers.")
    say(f"Planned: {_list(plan.counts())}.")
    with Stage(plan) as stage, ExitStack() as ending:
        nemesis: Nemesis
        people = People(stage, is_lying=lambda: nemesis.is_lying, release_guard=release_guard)
        nemesis = Nemesis(plan, stage, people)
        stage.start()
        ending.callback(people.end)
        people.begin()
        began = time.monotonic()
        nemesis.begin()
        _tell(stage, nemesis, until=began + plan.lasts_s, began=began, say=say)
        nemesis.end()
        people.quieten()
        stopped = time.monotonic()
        say("Everything is mended; waiting until all is at rest.")
        restless = _settle(stage, people, since=stopped + stage.offset)
        settled_s = None if restless else round(time.monotonic() - stopped, 1)
        ending.close()
        history = collect(stage, nemesis, people, began=began, stopped=stopped, settled_s=settled_s, restless=restless)
        verdict = checker.check(history)
        figures = report.figures(
            history,
            verdict,
            faults=nemesis.faults,
            steps=nemesis.done,
            met=people.counts,
            processes=stage.crew.started,
        )
        figures = {
            "seed": plan.seed,
            "minutes": plan.minutes,
            **figures,
            "processes_ended_by_themselves": stage.crew.ended_by_themselves,
            "nemesis_stumbled": nemesis.problems,
        }
        kept = None
        if verdict.violations or keep:
            kept = stage.keep()
            history.write(kept / "history.json")
            (kept / "plan.json").write_text(plan.as_json())
    return Outcome(history, verdict, figures, kept)


def _tell(stage: Stage, nemesis: Nemesis, *, until: float, began: float, say: Callable[[str], None]) -> None:
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(_TELL_EVERY_S, left))
        done = _list({name: nemesis.done[name] for name in ("kill", "freeze", "cut", "restart", "intuit")})
        say(f"{time.monotonic() - began:4.0f} s: {done}; {stage.simulator.status()['calls']} calls at Intuit")


def _settle(stage: Stage, people: People, *, since: float) -> tuple[str, ...]:
    """Wait until everybody has been refreshed once more and nothing is left to do; return what has not come to rest."""
    give_up = time.monotonic() + SETTLES_WITHIN_S
    stage.db.drop_connection()  # to a server that has been restarted
    while True:
        stage.db.execute(_EVERYBODY_ONCE_MORE, {"since": since})
        restless = tuple(_restless(stage, people, since))
        if not restless or time.monotonic() > give_up:
            return restless
        time.sleep(0.25)


def _restless(stage: Stage, people: People, since: float) -> Iterator[str]:
    counts = stage.db.execute(_RESTLESS, {"since": since}).mappings().one()
    yield from (f"{count} {what}" for what, count in counts.items() if count)
    if not people.is_idle:
        yield "a customer is consenting"
    if not counts["events not delivered"]:
        written = {row.id for row in stage.db.execute("SELECT id FROM qbo.outbox")}
        came = len(written) - len(written & stage.received_ids())
        if came:
            yield f"{came} events not received"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
