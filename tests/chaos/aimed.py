"""Meets workers at one moment of an attempt: what chance hits too seldom for a minute to show it."""

from __future__ import annotations

import time
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from tests.chaos.plan import Aim
from tests.support.proxy import CLEAR, Way

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from tests.chaos.plan import Step
    from tests.chaos.stage import Stage

_PROVIDER_TAKES_S = 0.4
# Above what any answer needs to reach a healthy escrow, so that a kill then excuses nothing.
_ANSWERED_AGO_S = 1.05
_TRIES = 4
_TRY_S = 0.15
_AT_ONCE = 2
_RESTARTS_WITHIN = timedelta(seconds=10)
_CLAIMED = """
SELECT id, attempt_worker FROM qbo.connections
WHERE lease_id IS NOT NULL AND leased_until > now() AND attempt_began_at > now() - make_interval(secs => %(within)s)
"""


class Aimed:
    """Holds attempts up at a moment, and harms who carries them out."""

    def __init__(
        self,
        stage: Stage,
        *,
        after: Callable[[float, Callable[[], object]], None],
        note: Callable[[str, str, float], None],
        faults: Counter[str],
    ) -> None:
        self._stage, self._after, self._note, self._faults = stage, after, note, faults

    def do(self, step: Step) -> None:
        """Carry out one step; nobody is harmed if nobody is at that moment."""
        aim = Aim(str(step.target))
        met = {
            Aim.BEFORE_SENDING: self._before_sending,
            Aim.AFTER_SENDING: self._after_sending,
            Aim.BEFORE_SAVE: self._before_save,
        }[aim](step)
        self._faults[f"worker {'killed' if step.options['killed'] else 'frozen'} {aim}"] += met

    def _before_sending(self, step: Step) -> int:
        """Keep PostgreSQL's answers until somebody has claimed and does not know it yet."""
        line, began = self._stage.lines["postgres"], time.monotonic()
        line.set(down=Way(stalled=True))
        try:
            for _ in range(_TRIES):
                time.sleep(_TRY_S)
                if met := self._harm(self._claimed(_TRY_S), step):
                    return met
        finally:
            line.heal()
            self._note("postgres", "stalled", began)
        return 0

    def _after_sending(self, step: Step) -> int:
        self._slow_provider()
        time.sleep(_PROVIDER_TAKES_S / 2)
        return self._harm(self._claimed(2 * _PROVIDER_TAKES_S), step)

    def _before_save(self, step: Step) -> int:
        """Have answers come to workers whose database takes no word any more."""
        stage, line = self._stage, self._stage.lines["postgres"]
        before = stage.simulator.status()["calls"]
        self._slow_provider()
        time.sleep(0.75 * _PROVIDER_TAKES_S)
        began = time.monotonic()
        line.set(up=Way(dropped=True), down=CLEAR)
        try:
            time.sleep(_PROVIDER_TAKES_S + _ANSWERED_AGO_S)
            ripe = {
                stage.ids.get(call.realm_id or "")
                for call in stage.simulator.journal(before)
                if call.rotated and call.written and call.status == HTTPStatus.OK
                if began < call.ended < time.monotonic() - _ANSWERED_AGO_S
            }
            claimed = self._claimed(3 * _PROVIDER_TAKES_S + _ANSWERED_AGO_S)
            return self._harm([(number, name) for number, name in claimed if number in ripe], step)
        finally:
            line.cut("reset")
            line.heal()
            self._note("postgres", "dropped", began)

    def _slow_provider(self) -> None:
        number = time.monotonic_ns()
        self._stage.simulator.fault(
            "latency", id=f"latency-{number}", seconds=2 * _PROVIDER_TAKES_S, delay=_PROVIDER_TAKES_S
        )

    def _claimed(self, within_s: float) -> list[tuple[int, str | None]]:
        db = self._stage.db
        rows = db.patiently(lambda: db.execute(_CLAIMED, {"within": within_s}).all(), patience=_RESTARTS_WITHIN)
        return [(row.id, row.attempt_worker) for row in rows]

    def _harm(self, claimed: list[tuple[int, str | None]], step: Step) -> int:
        """Kill or freeze who carries these attempts out, two workers at most; return how many it were."""
        crew = self._stage.crew
        slots = {slot for _, name in claimed if (slot := crew.slot_of(name)) is not None}
        for slot in sorted(slots)[:_AT_ONCE]:
            if step.options["killed"]:
                crew.kill(slot)
            elif (pid := crew.freeze(slot)) is not None:
                self._thaw_later(slot, pid, step.lasts_s)
        return min(len(slots), _AT_ONCE)

    def _thaw_later(self, slot: int, pid: int, seconds: float) -> None:
        self._after(seconds, lambda: self._stage.crew.thaw(slot, pid))
