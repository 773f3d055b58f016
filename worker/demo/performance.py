"""One performance: sets the stage, plays the script against the clock, and judges what is left."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.demo import evidence, report, scenes, watch
from worker.demo.plan import LASTS_AT_MOST_S
from worker.demo.scenes import Story
from worker.demo.stage import Stage, require_extras

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from worker.demo.plan import Plan
    from worker.demo.report import Report
    from worker.demo.screen import Screen
    from worker.demo.stage import Flower

TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class Setting:
    """What people may look at while it runs.

    Attributes:
        environment: A file with the settings for a shell.
        logs: The directory of the processes' output.
    """

    flower: Flower
    simulator_url: str
    environment: Path
    logs: Path


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told what, and when.

    Attributes:
        say: Called with a sentence for each step of the set-up.
        curtain: Called when everything runs; returns where the play is shown.
        judged: Called with the report while everything still runs, and where the logs are kept if a promise was not.
    """

    say: Callable[[str], None]
    curtain: Callable[[Setting], Screen]
    judged: Callable[[Report, Setting, Path | None], None]


def perform(plan: Plan, audience: Audience) -> Report:
    """Do all of it and leave nothing running.

    Raises:
        EmbeddedUnavailable, DemoUnavailable, CommandFailed: It cannot be set up here.
        KeyboardInterrupt: Somebody stopped it, with ^C or SIGTERM.
    """
    require_extras()
    # Explicitly: `qbo-refresh demo &` in a script starts with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    audience.say("PostgreSQL and Valkey from wheels, and a simulator of Intuit, on loopback")
    with Stage(plan) as stage:
        story, setting = _set_up(stage, audience.say)
        screen = audience.curtain(setting)
        began = time.monotonic()
        try:
            stage.start_beat()
            for scene, seen in _scenes(stage, story, until=began + LASTS_AT_MOST_S):
                screen.show(scene, seen, elapsed_s=time.monotonic() - began, workers=story.workers)
        finally:
            screen.close()
        judged = report.judge(evidence.collect(stage, story, took_s=time.monotonic() - began))
        audience.judged(judged, setting, None if judged.all_hold else stage.keep_logs())
    return judged


def _set_up(stage: Stage, say: Callable[[str], None]) -> tuple[Story, Setting]:
    say("Tables by Alembic: qbo-refresh migrate")
    stage.children.run("migrate")
    say("Two of celery -A worker.app worker -P threads, and celery -A worker.app flower")
    workers = {stage.start_worker(number): f"worker {number}" for number in (1, 2)}
    flower = stage.start_flower()
    grants = stage.make_grants()
    say(f"{len(grants)} connections that expire within days: qbo-refresh import FILE")
    stage.import_file(grants)
    revoked = frozenset(grants[position].realm_id for position in stage.plan.revoked())
    say(f"{len(revoked)} customers disconnect within QuickBooks, which tells nobody")
    stage.simulator.revoke(*revoked)
    stage.wait_for_workers(len(workers))
    setting = Setting(flower, stage.simulator.base_url, stage.write_environment(), stage.children.logs)
    return Story(revoked, workers), setting


def _scenes(stage: Stage, story: Story, *, until: float) -> Iterator[tuple[str, watch.Snapshot]]:
    """Yield what happens, tick by tick, until it is over, the time is up, or a process has died on its own."""
    script = scenes.play(stage, story)
    scene = next(script)
    while time.monotonic() < until and not stage.children.ended():
        seen = watch.look(stage.db, dead=story.kill.worker if story.kill else None)
        yield scene, seen
        try:
            scene = script.send(seen)
        except StopIteration:
            return
        time.sleep(TICK_S)
