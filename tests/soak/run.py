"""Drives a soak: makes the fleet, has each app live through the days in a process, and puts the rest together."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from qbo_refresh import sealing
from tests.soak import moments, share
from tests.soak.plan import PROVIDERS, STEP
from tests.soak.provider import Provider
from tests.support.fleet import Connected, Fleet
from worker import runtime
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from intuit_simulator import Simulator
    from tests.soak.plan import Life, Plan
    from worker.database import Database

STARTS = datetime(2027, 1, 4, tzinfo=UTC)
LEFT_ALONE = 2
"""Grants of each provider that nobody refreshes: they must die, or the soak proves nothing."""
_SAID_EVERY_S = 15.0
_SECRET = "made-up"  # nobody asks for it


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
        took_s: Of real time, the fleet's making and its processes' start included.
        lived_s: Of real time, the days alone.
    """

    plan: Plan
    members: tuple[Member, ...]
    fleet: Fleet
    providers: tuple[Provider, ...]
    bare: tuple[tuple[Provider, str], ...]
    refreshed: dict[int, int] = field(default_factory=dict)
    longest: dict[int, timedelta] = field(default_factory=dict)
    took_s: float = 0.0
    lived_s: float = 0.0


@contextlib.contextmanager
def soak(
    plan: Plan,
    *,
    database_url: str,
    redis_url: str,
    say: Callable[[str], None],
    limit_s: float | None = None,
    in_turn: bool = False,
) -> Iterator[Soaked]:
    """Live through a plan on an empty migrated database; give what is left, while the database can be asked.

    Args:
        in_turn: Without processes: the apps live through it one after the other, here. Cheaper for a short one.

    Raises:
        OutOfTime: It takes longer than `limit_s`.
    """
    began = time.monotonic()
    moments.set_by_hand(database_url, STARTS)
    values = _values(database_url, redis_url)
    settings = _settings(values, PROVIDERS)
    with contextlib.closing(runtime.build(settings)) as here:
        fleets = _fleets(here.db, settings)
        joined = [_join(fleets[life.provider], life) for life in plan.lives]
        bare = [(name, each.simulator.create_grants(1, client_id=each.app.client_id)[0].realm_id)
                for name, each in fleets.items() for _ in range(LEFT_ALONE)]  # fmt: skip
        shares = [
            share.Share(
                _settings(values, [name]),
                cast("Provider", each.simulator),
                {connected.id: (connected.realm_id, life) for connected, life in joined if life.provider == name},
                plan,
                STARTS,
                None if limit_s is None else began + limit_s,
            )
            for name, each in fleets.items()
        ]
        lived = [share.live(each) for each in shares] if in_turn else _live(shares, here.db, say)
        providers = {each.provider.name: each.provider for each in lived}
        yield Soaked(
            plan,
            tuple(Member(connected, life, providers[life.provider]) for connected, life in joined),
            next(iter(fleets.values())),
            tuple(providers.values()),
            tuple((providers[name], realm_id) for name, realm_id in bare),
            {hour: sum(each.refreshed.get(hour, 0) for each in lived) for hour in range(plan.days * 24 + 1)},
            {number: gap for each in lived for number, gap in each.longest.items()},
            time.monotonic() - began,
            max(each.took_s for each in lived),
        )


def _values(database_url: str, redis_url: str) -> dict[str, Any]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TOKEN_KEYS": f"soak:{sealing.new_key()}",
        "LOOKUP_KEY": sealing.new_key(),
    }


def _settings(values: dict[str, Any], names: Sequence[str]) -> Settings:
    apps = [
        {"environment": "sandbox", "client_id": Provider(name).client_id, "client_secret": _SECRET} for name in names
    ]
    return Settings(_env_file=None, **values, INTUIT_APPS=json.dumps(apps))


def _fleets(db: Database, settings: Settings) -> dict[str, Fleet]:
    fleets = {}
    for app, name in zip(settings.apps(), PROVIDERS, strict=True):
        provider = Provider(name)
        provider.now = STARTS.timestamp()
        fleets[name] = Fleet(db, settings, cast("Simulator", provider))
        fleets[name].app = app
    return fleets


def _join(fleet: Fleet, life: Life) -> tuple[Connected, Life]:
    hard_s = cast("Provider", fleet.simulator).book.policy.hard_seconds
    granted_ago = 0.0 if life.hard_end is None else hard_s - life.hard_end.total_seconds()
    (connected,) = fleet.connect(granted_ago=granted_ago)
    return connected, life


def _live(shares: list[share.Share], db: Database, say: Callable[[str], None]) -> list[share.Lived]:
    # Not forked: this process has threads and sessions.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(shares), spawning, share.begin) as pool:
        futures = [pool.submit(share.live, each) for each in shares]
        waiting: set[Future[share.Lived]] = set(futures)
        while waiting:
            done, waiting = wait(waiting, _SAID_EVERY_S)
            if any(each.exception() for each in done):
                break
            _tell(db, say)
        return [each.result() for each in futures]


def _tell(db: Database, say: Callable[[str], None]) -> None:
    row = db.execute("SELECT max(began_at) AS at, count(*) AS n FROM qbo.refresh_attempts").one()
    if row.at is not None:
        say(f"day {(row.at - STARTS) // STEP / 24:3.0f}: {row.n} attempts")
