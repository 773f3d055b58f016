"""The script: which trouble comes when. A generator that yields what it is waiting for and is sent what is seen."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from qbo_refresh.secret import Secret
from worker.demo import watch
from worker.demo.stage import LATENCY_S, Stage
from worker.demo.watch import Snapshot

if TYPE_CHECKING:
    from datetime import datetime

# Well below the deadline of a call, a third of the lease: the other worker's calls are let go in time.
_FREEZE_S = 2.5
_ANSWERED_BY_S = 3 * LATENCY_S
_FREEZES = 4
_LONGEST_OUTAGE_S = 15.0
_FEWEST_HIT = 3
_NOTICED_WITHIN_S = 2.0
TROUBLE_S = 10.0

Script = Generator["Scene", Snapshot, None]


class Scene(StrEnum):
    """What is happening, in words."""

    START = "Beat is starting."
    SWEEP = "Beat sweeps each second; the soonest to expire go first."
    OUTAGE = "Outage at Intuit: 503s, and calls that get no answer."
    FREEZE = "Intuit holds its answers; a worker will be killed in mid-refresh."
    DYING = "Killed with -9. Its leases stand: nobody presents those tokens yet."
    SECRET = "A wrong client secret: Intuit refuses the app. One a moment tries it."  # noqa: S105  # words
    REFUSALS = "Intuit answers invalid_grant to everybody. Nobody believes it yet."
    RELEASE = "The refusals are over; an operator looks, and releases the guard."
    REST = "What is in doubt, and what was refused once, is asked again."


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed with -9.

    Attributes:
        worker: Its name in the ledger.
        at: By the database's clock.
        caught: Connections whose calls of that worker were open at Intuit at that moment.
    """

    worker: str
    at: datetime
    caught: frozenset[int]


@dataclass(slots=True)
class Story:
    """What has happened so far.

    Attributes:
        workers: Name in the ledger → name on the screen.
    """

    revoked: frozenset[str]
    workers: dict[str, str] = field(default_factory=dict)
    outage_s: float | None = None
    secret_s: float | None = None
    refusals_s: float | None = None
    kill: Kill | None = None
    is_over: bool = False


def play(stage: Stage, story: Story) -> Script:
    """Yield the scene that is on until everything has settled; send it the latest snapshot."""
    total = stage.plan.connections
    yield from _until(lambda seen: seen.asked > 0, Scene.START)
    yield from _until(lambda seen: seen.asked >= total * 0.25, Scene.SWEEP)
    yield from _outage(stage, story)
    yield from _until(lambda seen: seen.asked >= total * 0.5, Scene.SWEEP)
    yield from _kill(stage, story)
    yield from _until(lambda seen: seen.asked >= total * 0.65, Scene.SWEEP)
    yield from _wrong_secret(stage, story)
    yield from _until(lambda seen: seen.asked >= total * 0.75, Scene.SWEEP)
    yield from _refusals(stage, story)
    yield from _until(lambda seen: seen.is_settled(revoked=len(story.revoked)), Scene.REST)
    story.is_over = True


def _until(is_so: Callable[[Snapshot], bool], scene: Scene) -> Script:
    while not is_so((yield scene)):
        pass


def _outage(stage: Stage, story: Story) -> Script:
    # Neither kind of call reaches the grants, as when a gateway fails: a token that is spent while its answer is lost
    # cannot be saved by anybody at a provider as strict as this one.
    seed = stage.plan.seed
    faults = [
        stage.simulator.fault("unavailable", id="outage-503", share=0.25, seed=seed, seconds=_LONGEST_OUTAGE_S),
        stage.simulator.fault("drop", id="outage-lost", share=0.25, seed=seed + 1, seconds=_LONGEST_OUTAGE_S),
    ]
    began = time.monotonic()

    def is_over(_: Snapshot) -> bool:
        lasts = time.monotonic() - began
        hit = sum(fault["applied"] for fault in stage.simulator.faults() if fault["id"] in faults)
        return lasts > _LONGEST_OUTAGE_S or (lasts > stage.plan.outage_s and hit >= _FEWEST_HIT)

    yield from _until(is_over, Scene.OUTAGE)
    for fault in faults:
        stage.simulator.clear_fault(fault)
    story.outage_s = time.monotonic() - began


def _wrong_secret(stage: Stage, story: Story) -> Script:
    """Have Intuit know another secret than the workers: as if a wrong one had been deployed to all of them."""
    stage.simulator.set_secrets(secrets.token_urlsafe(24))
    began = time.monotonic()
    yield from _until(lambda _: time.monotonic() - began > TROUBLE_S, Scene.SECRET)
    stage.simulator.set_secrets(stage.settings["INTUIT_CLIENT_SECRET"])
    story.secret_s = time.monotonic() - began


def _refusals(stage: Stage, story: Story) -> Script:
    """Refuse every grant, living or not; then let the guard go, as an operator would who has looked."""
    fault = stage.simulator.fault("invalid_grant", id="refusals")
    began = time.monotonic()
    yield from _until(lambda _: time.monotonic() - began > TROUBLE_S, Scene.REFUSALS)
    stage.simulator.clear_fault(fault)
    story.refusals_s = time.monotonic() - began
    stage.release_guard()
    yield Scene.RELEASE


def _kill(stage: Stage, story: Story) -> Script:
    """Hold all answers, kill the first worker while calls of its own are held, let the others' go, replace it."""
    victim = next(iter(story.workers))
    for _ in range(_FREEZES):
        caught = yield from _catch(stage, victim)
        if caught:
            story.kill = Kill(victim, watch.database_time(stage.db), frozenset(caught.values()))
            stage.children.kill(story.workers[victim])
            yield from _until(_are_over(stage, caught), Scene.DYING)
        stage.simulator.clear_faults()
        stage.simulator.fault("latency", id="usual", delay=LATENCY_S)
        if caught:
            number = len(story.workers) + 1
            story.workers[stage.start_worker(number)] = f"worker {number}"
            return


def _catch(stage: Stage, victim: str) -> Generator[Scene, Snapshot, dict[bytes, int]]:
    """Return whose calls of the victim are held: enough of them, or what there is when the others must be let go."""
    stage.simulator.clear_faults()
    # A call whose client dies while it is held is dropped unread, as if it had been lost on the way.
    freeze = stage.simulator.fault("freeze", if_gone="drop", seconds=_FREEZE_S + _NOTICED_WITHIN_S)
    began = time.monotonic()
    while True:
        yield Scene.FREEZE
        passed = time.monotonic() - began
        if passed < _ANSWERED_BY_S:
            continue
        leased = watch.leased_by(stage.db, victim)
        caught = _held(stage, freeze, leased)
        # A call that is not held may have been answered, and the answer not yet be saved: no token is lost for a show.
        if len(caught) == len(leased) and (len(caught) >= stage.plan.expected_catch or passed > _FREEZE_S):
            return caught
        if passed > _FREEZE_S:
            return {}


def _held(stage: Stage, freeze: str, leased: dict[bytes, int]) -> dict[bytes, int]:
    label = f"freeze:{freeze}"
    calls = [call for call in stage.simulator.in_flight() if label in (call["faults"] or "").split(",")]
    hashes = [stage.lookup.realm_hash(Secret(call["realm_id"] or "")) for call in calls]
    return {realm_hash: leased[realm_hash] for realm_hash in hashes if realm_hash in leased}


def _are_over(stage: Stage, caught: dict[bytes, int]) -> Callable[[Snapshot], bool]:
    give_up = time.monotonic() + _NOTICED_WITHIN_S

    def are_over(_: Snapshot) -> bool:
        under_way = {stage.lookup.realm_hash(Secret(call["realm_id"] or "")) for call in stage.simulator.in_flight()}
        return time.monotonic() > give_up or not under_way & caught.keys()

    return are_over
