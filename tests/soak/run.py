"""Drives a soak: sets the clocks, sweeps, refreshes what the sweep has published, and goes one step on."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from qbo_refresh import sealing
from tests.soak.moments import DatabaseClock
from tests.soak.plan import DAY, PROVIDERS, Life, Outage, Plan
from tests.soak.provider import Intuit, Provider, Weather
from tests.support.fleet import Connected, Fleet
from worker import runtime
from worker.attempt import Trigger
from worker.dispatch import Sweep, dispatch_due
from worker.refresh import Result, refresh
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from intuit_simulator import Simulator
    from worker.runtime import Runtime

STARTS = datetime(2027, 1, 4, tzinfo=UTC)
STEP = timedelta(hours=1)
THREADS = 4
LEFT_ALONE = 2
"""Grants of each provider that nobody refreshes: they must die, or the soak proves nothing."""
_SECRET = "made-up"  # nobody asks for it


class OutOfTime(Exception):
    """The soak was to be over by now."""


@dataclass(frozen=True, slots=True)
class Member:
    """One connection and what was planned for it."""

    connected: Connected
    life: Life
    provider: Provider


@dataclass(slots=True)
class Soaked:
    """What is left of a soak to judge.

    Attributes:
        refreshed: Refreshes by the hour they were made in, counted from the start.
        longest: Connection id → the longest time between two refreshes of it, while its grant lived.
        bare: Grants of each provider that nobody refreshed.
        took_s: Of real time.
    """

    plan: Plan
    members: tuple[Member, ...]
    fleet: Fleet
    providers: tuple[Provider, ...]
    bare: tuple[tuple[Provider, str], ...]
    refreshed: dict[int, int] = field(default_factory=dict)
    longest: dict[int, timedelta] = field(default_factory=dict)
    took_s: float = 0.0


@dataclass(slots=True)
class _World:
    clock: DatabaseClock
    here: Runtime
    fleets: dict[str, Fleet]
    providers: dict[str, Provider]

    def move(self, to: timedelta, weather: Weather) -> None:
        self.clock.at = STARTS + to
        for provider in self.providers.values():
            provider.now, provider.weather = self.clock.at.timestamp(), weather
        self.clock.tell(self.here.db)


@contextlib.contextmanager
def soak(
    plan: Plan, *, database_url: str, redis_url: str, say: Callable[[str], None], limit_s: float | None = None
) -> Iterator[Soaked]:
    """Live through a plan on an empty migrated database; give what is left, while the database can be asked.

    Raises:
        OutOfTime: It takes longer than `limit_s`.
    """
    began = time.monotonic()
    clock = DatabaseClock(database_url, STARTS)
    providers = {name: Provider(name) for name in PROVIDERS}
    settings = _settings(database_url, redis_url)
    here = runtime.build(settings)
    # The answers come without HTTP; a jitter that is always the same keeps two runs of a seed alike.
    refresher = replace(
        here.refresher, intuit=Intuit({each.client_id: each for each in providers.values()}), jitter=lambda: 0.5
    )
    world = _World(clock, replace(here, refresher=refresher), _fleets(here, settings, providers), providers)
    world.move(timedelta(0), Weather.FINE)
    members = tuple(_join(world, life) for life in plan.lives)
    bare = tuple((each, each.create_grants(1, client_id=each.client_id)[0].realm_id)
                 for each in providers.values() for _ in range(LEFT_ALONE))  # fmt: skip
    soaked = Soaked(plan, members, next(iter(world.fleets.values())), tuple(providers.values()), bare)
    with contextlib.closing(here), ThreadPoolExecutor(THREADS) as pool:
        _live(world, soaked, pool, say, None if limit_s is None else began + limit_s)
        soaked.took_s = time.monotonic() - began
        yield soaked


def _settings(database_url: str, redis_url: str) -> Settings:
    apps = [
        {"environment": "sandbox", "client_id": Provider(name).client_id, "client_secret": _SECRET}
        for name in PROVIDERS
    ]
    values: dict[str, Any] = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TOKEN_KEYS": f"soak:{sealing.new_key()}",
        "LOOKUP_KEY": sealing.new_key(),
        "INTUIT_APPS": json.dumps(apps),
    }
    return Settings(_env_file=None, **values)


def _fleets(here: Runtime, settings: Settings, providers: dict[str, Provider]) -> dict[str, Fleet]:
    fleets = {}
    for app, (name, provider) in zip(settings.apps(), providers.items(), strict=True):
        fleets[name] = Fleet(here.db, settings, cast("Simulator", provider))
        fleets[name].app = app
    return fleets


def _join(world: _World, life: Life) -> Member:
    provider = world.providers[life.provider]
    granted_ago = 0.0 if life.hard_end is None else provider.book.policy.hard_seconds - life.hard_end.total_seconds()
    (connected,) = world.fleets[life.provider].connect(granted_ago=granted_ago)
    return Member(connected, life, provider)


def _live(
    world: _World, soaked: Soaked, pool: ThreadPoolExecutor, say: Callable[[str], None], end: float | None
) -> None:
    ids: list[int] = []
    sweep = Sweep(
        db=world.here.db,
        keys=world.here.keys,
        per_sweep=10**6,
        per_minute=10**6,
        every=timedelta(minutes=1),
        pace=world.here.settings.pace,
        mark=world.here.settings.queue_mark,
        queue_length=lambda: 0,
        publish=ids.extend,
    )
    revocations = [(each.life.revoked, each) for each in soaked.members if each.life.revoked is not None]
    revocations.sort(key=lambda planned: planned[0])
    seen: dict[int, timedelta] = {}
    for hour in range(soaked.plan.days * 24 + 1):
        at = hour * STEP
        while revocations and revocations[0][0] <= at:
            _, member = revocations.pop(0)
            member.provider.revoke(member.connected.realm_id)
        if hour % (20 * 24) == 0:
            say(f"day {at / DAY:3.0f}: {sum(soaked.refreshed.values())} refreshes")
        now = _weather(soaked.plan.outages, at)
        if now is None:
            continue
        world.move(at, now)
        dispatch_due(sweep)
        for result in pool.map(lambda connection_id: _refresh(world, connection_id), ids):
            _note(soaked, result, at, seen)
        ids.clear()
        if end is not None and time.monotonic() > end:
            raise OutOfTime(f"day {at / DAY:.0f} of {soaked.plan.days}")


def _weather(outages: tuple[Outage, ...], at: timedelta) -> Weather | None:
    return next((each.weather for each in outages if each.begins <= at < each.ends), Weather.FINE)


def _refresh(world: _World, connection_id: int) -> Result:
    world.clock.tell(world.here.db)
    return refresh(world.here.refresher, connection_id, trigger=Trigger.SWEEP)


def _note(soaked: Soaked, result: Result, at: timedelta, seen: dict[int, timedelta]) -> None:
    if result.rotated is None:
        return
    hour = at // STEP
    soaked.refreshed[hour] = soaked.refreshed.get(hour, 0) + 1
    before = seen.get(result.connection_id, timedelta(0))
    soaked.longest[result.connection_id] = max(soaked.longest.get(result.connection_id, timedelta(0)), at - before)
    seen[result.connection_id] = at
