"""When and what: decides, from one answer of Intuit's, what changes. Pure: no clock, no randomness, no database."""

from worker.policy.answers import Decision, Standing, decide, unreadable
from worker.policy.pace import (
    DAY,
    LONGEST_BACKOFF,
    LONGEST_LEASE,
    LONGEST_THROTTLE,
    NEAR_EXPIRY,
    REFUSALS_THAT_BLOCK,
    UNREADABLE_PAUSE,
    Pace,
    bounded_throttle,
)
from worker.policy.schedule import backoff, next_refresh_in, ramp, slot, until_slot
from worker.policy.verdicts import GUARD_WINDOW, Evidence, Guard, Withheld, guard_threshold, is_calm, judge, waits_until

__all__ = [
    "DAY",
    "GUARD_WINDOW",
    "LONGEST_BACKOFF",
    "LONGEST_LEASE",
    "LONGEST_THROTTLE",
    "NEAR_EXPIRY",
    "REFUSALS_THAT_BLOCK",
    "UNREADABLE_PAUSE",
    "Decision",
    "Evidence",
    "Guard",
    "Pace",
    "Standing",
    "Withheld",
    "backoff",
    "bounded_throttle",
    "decide",
    "guard_threshold",
    "is_calm",
    "judge",
    "next_refresh_in",
    "ramp",
    "slot",
    "unreadable",
    "until_slot",
    "waits_until",
]
