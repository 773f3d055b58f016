"""What happens in a soak, by its seed: whose grant ends when, and which outages come between. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

from tests.soak.provider import Weather

PROVIDERS = ("daily", "strict", "grace")
SETTLES = timedelta(days=7)
"""What has bunched a fleet is spread again within it."""
DAY = timedelta(days=1)
STEP = timedelta(hours=1)
"""How often a fleet is swept."""


@dataclass(frozen=True, slots=True)
class Outage:
    """From `begins`, after the start, nothing is swept (`weather` is None), or Intuit answers as `weather` says."""

    begins: timedelta
    lasts: timedelta
    weather: Weather | None

    @property
    def ends(self) -> timedelta:
        """Return when it is over."""
        return self.begins + self.lasts

    def __str__(self) -> str:
        what = "no worker" if self.weather is None else f"Intuit {self.weather.value}"
        return f"{what} for {self.lasts / DAY:g} days from day {self.begins / DAY:g}"


@dataclass(frozen=True, slots=True)
class Life:
    """How one grant goes. Moments count from the start; None: never within the soak."""

    provider: str
    hard_end: timedelta | None = None
    revoked: timedelta | None = None

    @property
    def ends(self) -> timedelta | None:
        """Return when the grant ends, whatever the worker does."""
        return min((end for end in (self.hard_end, self.revoked) if end is not None), default=None)


@dataclass(frozen=True, slots=True)
class Plan:
    """One soak."""

    days: int
    lives: tuple[Life, ...]
    outages: tuple[Outage, ...]

    def weather(self, at: timedelta) -> Weather | None:
        """Return what Intuit answers then; None while nothing is swept."""
        return next((each.weather for each in self.outages if each.begins <= at < each.ends), Weather.FINE)


_KINDS: tuple[tuple[float, Weather | None], ...] = (
    (30, None),
    (1, Weather.ERROR),
    (12, None),
    (2, Weather.UNREACHABLE),
    (30, None),
    (0.25, Weather.THROTTLED),
    (1 / 24, Weather.REFUSING),
)


def make(*, days: int, connections: int, seed: int) -> Plan:
    """Return the soak of a seed."""
    chance = random.Random(seed)  # noqa: S311  # a plan, no secret
    outages = _outages(days, chance)
    lives = [Life(PROVIDERS[number % len(PROVIDERS)]) for number in range(connections)]
    chosen = chance.sample(range(connections), k=max(6, connections // 8))
    # Half of those that end are five years old, many of one day: consents come in waves. The others are revoked.
    wave = chance.uniform(0.5, 0.9) * days * DAY
    for place, number in enumerate(chosen):
        at = chance.uniform(0.05, 0.95) * days * DAY
        provider = lives[number].provider
        if place % 2:
            lives[number] = Life(provider, revoked=at)
        elif place % 4:
            lives[number] = Life(provider, hard_end=at)
        else:
            lives[number] = Life(provider, hard_end=wave + chance.uniform(0, 1) * DAY)
    return Plan(days, tuple(lives), outages)


def _outages(days: int, chance: random.Random) -> tuple[Outage, ...]:
    """Return as many as fit, in an order of the seed's, each with time before it in which a fleet settles."""
    kinds = list(_KINDS)
    chance.shuffle(kinds)
    planned: list[Outage] = []
    at = SETTLES + 3 * DAY
    for length, weather in kinds:
        begins = at + chance.randint(0, 96) * timedelta(hours=1)
        outage = Outage(begins, timedelta(days=length), weather)
        if outage.ends + SETTLES + 2 * DAY > days * DAY:
            continue
        planned.append(outage)
        at = outage.ends + SETTLES + 3 * DAY
    return tuple(planned)
