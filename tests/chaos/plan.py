"""What goes wrong when: a pure function of a seed and a duration. Nothing here knows a process or a clock."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WORKERS: Final = 8
BEAT: Final = WORKERS
"""The slot of the beat, which is killed as the workers are."""
CONNECTIONS: Final = 100

# What a day has room for and a minute has not. Everything else runs as it does for users.
LEASE_S: Final = 4.0
CONFIRM_AFTER_S: Final = 12.0
SHORTENED: Final = {
    "LEASE_SECONDS": LEASE_S,
    "CONFIRM_AFTER_SECONDS": CONFIRM_AFTER_S,
    "BACKOFF_SECONDS": 1,
    "SWEEP_SECONDS": 1,
    "REFRESH_PER_MINUTE": 1200,
}
# The longest that a provider lies about a grant: two refusals, CONFIRM_AFTER apart, are what a dead grant looks like.
LONGEST_LIE_S: Final = CONFIRM_AFTER_S / 3
_KILLS_A_MINUTE: Final = 62
_FREEZES_A_MINUTE: Final = 12
_CUTS_A_MINUTE: Final = 48
_LONGEST_FREEZE_S: Final = 2 * LEASE_S
_LIVES_AT_LEAST_S: Final = 1.5


class Kind(StrEnum):
    """What the nemesis does."""

    KILL = "kill"
    FREEZE = "freeze"
    CUT = "cut"
    NETWORK = "network"
    AIMED = "aimed"
    FLUSH = "flush"
    RESTART = "restart"
    INTUIT = "intuit"
    POLICY = "policy"
    REVOKE = "revoke"
    RECONNECT = "reconnect"
    ARRIVE = "arrive"
    KEYS = "keys"
    SECRET = "secret"


class Aim(StrEnum):
    """At which moment of an attempt a worker is met."""

    BEFORE_SENDING = "before sending"
    """Frozen past its lease while the claim's answer is on its way to it."""
    AFTER_SENDING = "after sending"
    """Frozen past its lease while the provider takes its time."""
    BEFORE_SAVE = "before the save"
    """Killed, or frozen past its lease, once the answer is there and no save comes through."""


class Lane(StrEnum):
    """Steps of one lane follow each other; those of two lanes happen at once."""

    PROCESSES = "processes"
    LINES = "lines"
    SERVERS = "servers"
    INTUIT = "intuit"
    PEOPLE = "people"
    KEYS = "keys"


LANES: Final = {
    Kind.KILL: Lane.PROCESSES,
    Kind.FREEZE: Lane.PROCESSES,
    Kind.CUT: Lane.LINES,
    Kind.NETWORK: Lane.LINES,
    Kind.AIMED: Lane.LINES,
    Kind.FLUSH: Lane.SERVERS,
    Kind.RESTART: Lane.SERVERS,
    Kind.INTUIT: Lane.INTUIT,
    Kind.POLICY: Lane.INTUIT,
    Kind.REVOKE: Lane.PEOPLE,
    Kind.RECONNECT: Lane.PEOPLE,
    Kind.ARRIVE: Lane.PEOPLE,
    Kind.KEYS: Lane.KEYS,
    Kind.SECRET: Lane.KEYS,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that goes wrong.

    Attributes:
        at_s: Seconds after the start.
        target: Of processes a slot, of lines and servers a name, of grants their numbers, of Intuit the fault's kind.
        lasts_s: How long it lasts; 0 for a moment.
        options: Whatever else this kind needs.
    """

    at_s: float
    kind: Kind
    target: str | int | tuple[int, ...] = ""
    lasts_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lane(self) -> Lane:
        """Which steps it follows."""
        return LANES[self.kind]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, in the order in which it happens."""

    seed: int
    minutes: float
    connections: int
    workers: int
    steps: tuple[Step, ...]

    @property
    def lasts_s(self) -> float:
        """How long things go wrong."""
        return self.minutes * 60

    def counts(self) -> dict[str, int]:
        """Return how many steps there are of each kind."""
        return dict(sorted(Counter(str(step.kind) for step in self.steps).items()))

    def as_json(self) -> str:
        """Return it as JSON: two plans are the same if this is."""
        return json.dumps(asdict(self), sort_keys=True)


def make(
    *,
    seed: int,
    minutes: float,
    connections: int = CONNECTIONS,
    workers: int = WORKERS,
    kills_a_minute: float = _KILLS_A_MINUTE,
) -> Plan:
    """Return the plan of this seed and duration."""
    lasts_s = minutes * 60
    lanes = (
        _processes(_random(seed, "processes"), lasts_s, workers, kills_a_minute),
        _lines(_random(seed, "lines"), lasts_s),
        _aimed(_random(seed, "aimed"), lasts_s),
        _servers(_random(seed, "servers"), lasts_s),
        _intuit(_random(seed, "intuit"), lasts_s, connections),
        _people(_random(seed, "people"), lasts_s, connections),
        _keys(_random(seed, "keys"), lasts_s),
    )
    steps = sorted((step for lane in lanes for step in lane), key=lambda step: step.at_s)
    return Plan(seed, minutes, connections, workers, tuple(steps))


def _random(seed: int, lane: str) -> random.Random:
    return random.Random(f"{seed} {lane}")  # noqa: S311  # a plan that can be repeated, no secret


def _moments(by: random.Random, lasts_s: float, a_minute: float, *, first_s: float = 2.0) -> Iterator[float]:
    """Yield so many moments a minute, each somewhere in its own share of the time; one at least."""
    count = max(1, round(a_minute * lasts_s / 60))
    share = (lasts_s - first_s) / count
    return (round(first_s + share * (number + by.random()), 3) for number in range(count))


def _processes(by: random.Random, lasts_s: float, workers: int, kills_a_minute: float) -> Iterator[Step]:
    """Freeze and kill. A frozen worker is left alone until it goes on or, one time in eight, is killed frozen."""
    free_at = dict.fromkeys(range(workers), 0.0)
    wanted = [(at, Kind.FREEZE) for at in _moments(by, lasts_s, _FREEZES_A_MINUTE)]
    wanted += [(at, Kind.KILL) for at in _moments(by, lasts_s, kills_a_minute)]
    for number, (at, kind) in enumerate(sorted(wanted)):
        if number % 40 == 39:
            yield Step(at, Kind.KILL, BEAT)
        ready = [slot for slot, since in free_at.items() if since <= at]
        slot = by.choice(ready) if ready else min(free_at, key=lambda each: free_at[each])
        if kind is Kind.KILL:
            free_at[slot] = at + _LIVES_AT_LEAST_S
            yield Step(at, kind, slot)
            continue
        # Half of them come back while others may be asking with the same connection's lease.
        lasts = round(by.uniform(LEASE_S * 1.1, _LONGEST_FREEZE_S), 3)
        killed = by.random() < 1 / 8
        free_at[slot] = at + lasts + _LIVES_AT_LEAST_S
        yield Step(at, kind, slot, lasts, {"killed": killed})


_TO_POSTGRES, _TO_VALKEY, _TO_INTUIT, _TO_HOST = LINES = ("postgres", "valkey", "intuit", "host")


def _lines(by: random.Random, lasts_s: float) -> Iterator[Step]:
    for at in _moments(by, lasts_s, _CUTS_A_MINUTE):
        line = by.choices(LINES, weights=(4, 4, 5, 3))[0]
        yield Step(at, Kind.CUT, line, 0.0, {"how": by.choices(("reset", "close", "silent"), weights=(4, 4, 1))[0]})
    for at in _moments(by, lasts_s, 16):
        line = by.choices(LINES, weights=(4, 4, 3, 2))[0]
        # No box keeps a request for Intuit so long that it is delivered after the lease: nobody could take it back.
        fault: dict[str, Any] = by.choice(
            (
                {"delay_s": round(by.uniform(0.02, 0.3), 3)},
                {"bytes_per_s": 20_000.0},
                {"stalled": True},
                {"refused": True},
                {"dropped": True},
                {"cut_after": by.randrange(0, 4000), "how": by.choice(("reset", "close"))},
            )
        )
        way = "both" if "refused" in fault else by.choice(("up", "down"))
        longest = 0.8 if line == _TO_INTUIT or "dropped" in fault or "cut_after" in fault else 2.0
        yield Step(at, Kind.NETWORK, line, round(by.uniform(0.3, longest), 3), {"way": way, **fault})


_AIMS_A_MINUTE: Final = {Aim.BEFORE_SENDING: 6, Aim.AFTER_SENDING: 6, Aim.BEFORE_SAVE: 8}


def _aimed(by: random.Random, lasts_s: float) -> Iterator[Step]:
    """Yield what meets a worker at one moment of an attempt; how long it is frozen, if it is not killed."""
    for aim, a_minute in _AIMS_A_MINUTE.items():
        for number, at in enumerate(_moments(by, lasts_s, a_minute, first_s=3.0)):
            # Long enough for another to have taken over and to have saved.
            lasts = round(by.uniform(LEASE_S * 1.5, _LONGEST_FREEZE_S), 3)
            yield Step(at, Kind.AIMED, aim, lasts, {"killed": aim is Aim.BEFORE_SAVE and number % 2 == 0})


def _servers(by: random.Random, lasts_s: float) -> Iterator[Step]:
    for at in _moments(by, lasts_s, 5):
        yield Step(at, Kind.FLUSH, "valkey")
    for server, a_minute in (("valkey", 2.5), ("postgres", 2)):
        for at in _moments(by, lasts_s, a_minute, first_s=5.0):
            away = round(by.uniform(0, 1.5), 3)
            yield Step(at, Kind.RESTART, server, away, {"how": by.choice(("stop", "kill"))})


# What Intuit does: how long at most, to which share of the calls, and how. Some lose what a strict provider issues:
# those are few, or nothing else would be seen.
_TROUBLES: Final[tuple[tuple[str, float, float, dict[str, Any]], ...]] = (
    ("unavailable", 5, 0.5, {}),
    ("unavailable", 3, 0.3, {"retry_after": "1"}),
    ("unavailable", 3, 0.08, {"rotate": True}),
    ("answer", 4, 0.4, {"status": 500}),
    ("answer", 4, 0.4, {"status": 502, "body": "<html>Bad Gateway</html>", "content_type": "text/html"}),
    ("answer", 4, 0.4, {"status": 504}),
    ("answer", 4, 0.4, {"status": 408}),
    ("answer", 3, 0.08, {"status": 500, "rotate": True}),
    ("answer", 3, 0.3, {"status": 400, "error": "invalid_request"}),
    ("throttled", 2, 0.3, {"retry_after": "1"}),
    ("throttled", 2, 0.3, {}),
    ("drop", 4, 0.4, {}),
    ("drop", 4, 0.4, {"reset": True}),
    ("drop", 3, 0.08, {"reset": True, "rotate": True}),
    ("cut", 3, 0.08, {"after_bytes": 0}),
    ("cut", 3, 0.08, {"after_bytes": 300}),
    ("cut", 3, 0.08, {"after_bytes": 1400}),
    ("cut", 3, 0.08, {"after_bytes": 60, "of": "answer", "reset": True}),
    ("reset", 3, 0.08, {}),
    ("drip", 3, 0.08, {"interval": 0.05}),
    ("drip", 3, 0.08, {"interval": 0.05, "of": "headers"}),
    ("html", 3, 0.08, {}),
    ("empty", 3, 0.08, {}),
    ("no_refresh_token", 3, 0.08, {}),
    ("huge", 3, 0.05, {"size": 1 << 20}),
    ("gzip", 4, 0.5, {}),
    ("gzip", 3, 0.05, {"size": 1 << 26}),
    ("endless_headers", 3, 0.05, {"size": 1 << 20}),
    ("redirect", 4, 0.4, {}),
    ("override", 4, 0.5, {"fields": {"expires_in": "3600", "x_refresh_token_expires_in": "8726400"}}),
    ("override", 4, 0.5, {"fields": {"expires_in": -1, "x_refresh_token_hard_expires_in": 0}}),
    ("latency", 5, 0.7, {"delay": 0.3}),
    ("latency", 5, 0.5, {"delay": 0.9}),
    ("freeze", 1.5, 0.5, {}),
    ("invalid_client", 3, 1.0, {}),
    ("invalid_client", 4, 0.3, {}),
)


def _intuit(by: random.Random, lasts_s: float, connections: int) -> Iterator[Step]:
    """Yield the troubles, one or two at a time, each kind before any comes again; lies about grants; the policies."""
    yield Step(0.0, Kind.POLICY, "grace")
    yield Step(round(lasts_s / 3, 3), Kind.POLICY, "strict")
    yield Step(round(lasts_s * 2 / 3, 3), Kind.POLICY, "reuse-revokes")
    waiting: list[tuple[str, float, float, dict[str, Any]]] = []
    for at in _moments(by, lasts_s, 20, first_s=1.0):
        if not waiting:
            waiting = by.sample(_TROUBLES, len(_TROUBLES))
        kind, longest, share, options = waiting.pop()
        lasts = round(by.uniform(longest / 2, longest), 3)
        yield Step(at, Kind.INTUIT, kind, lasts, {"share": share, "seed": by.randrange(1 << 30), **options})
    for number, at in enumerate(_moments(by, lasts_s, 3, first_s=4.0)):
        few = by.sample(range(connections), max(3, connections // 12))
        options = {"seed": by.randrange(1 << 30), "share": 1.0}
        who = {} if number % 3 == 2 else {"connections": tuple(sorted(few))}
        yield Step(at, Kind.INTUIT, "invalid_grant", LONGEST_LIE_S, {**options, **who})


def _people(by: random.Random, lasts_s: float, connections: int) -> Iterator[Step]:
    """Yield who disconnects within QuickBooks, who consents again though nothing was wrong, and who is new."""
    for at in _moments(by, lasts_s, 5):
        yield Step(at, Kind.REVOKE, tuple(by.sample(range(connections), by.randint(1, 2))))
    for at in _moments(by, lasts_s, 6):
        yield Step(at, Kind.RECONNECT, (by.randrange(connections),))
    for number, at in enumerate(_moments(by, lasts_s, 6)):
        yield Step(at, Kind.ARRIVE, f"newcomer-{number}")


def _keys(by: random.Random, lasts_s: float) -> Iterator[Step]:
    """Yield new keys and secrets in turn; a hasty secret is deployed after Intuit has forgotten the old one."""
    for number, at in enumerate(_moments(by, lasts_s, 2, first_s=min(6.0, lasts_s / 4))):
        if number % 2 == 0:
            yield Step(at, Kind.KEYS, number // 2 + 1)
        else:
            yield Step(at, Kind.SECRET, number // 2 + 1, 0.0, {"hasty": by.random() < 1 / 2})
