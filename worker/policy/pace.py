"""The durations: those that configuration may shorten, and those that nothing may."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

DAY = timedelta(days=1)
LONGEST_BACKOFF = timedelta(hours=1)
LONGEST_THROTTLE = timedelta(minutes=15)
UNREADABLE_PAUSE = timedelta(hours=1)
REFUSALS_THAT_BLOCK = 3
NEAR_EXPIRY = timedelta(days=10)
# What LEASE_SECONDS may be at most: no attempt, of whatever configuration, owns a row for longer.
LONGEST_LEASE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pace:
    """The durations that configuration may shorten.

    Attributes:
        lease: How long one attempt owns a connection.
        confirm_after: How long a first refusal waits to be confirmed.
        backoff: The first pause after a failure; it doubles up to an hour.
    """

    lease: timedelta = timedelta(seconds=60)
    confirm_after: timedelta = timedelta(minutes=15)
    backoff: timedelta = timedelta(minutes=1)

    @property
    def deadline(self) -> timedelta:
        """Return how long one POST may take in total, DNS included: 20 s of the default lease."""
        return min(timedelta(seconds=20), self.lease / 3)

    @property
    def slack(self) -> timedelta:
        """Return what must be left of the lease after the deadline: 5 s of the default lease."""
        return self.lease / 12

    @property
    def probe_every(self) -> timedelta:
        """Return how long a blocked secret rests between two tries at the least: 45 s by default.

        A sweep lets one connection through, so that it is tried once a minute; who asks ad hoc may be sooner. A message
        is taken a moment after its sweep began: a rest of a whole minute would not be over when the next one looks, and
        every second sweep would try nothing.
        """
        return self.backoff * 3 / 4

    @property
    def horizon(self) -> timedelta:
        """Return how long nothing is ever put off: two days, of which the longest pause of ours is one."""
        return 2 * DAY + self.confirm_after

    @property
    def confirm_alone_after(self) -> timedelta:
        """Return how long a first refusal waits if no other connection of the app works: 45 min by default."""
        return 3 * self.confirm_after


def bounded_throttle(asked: timedelta) -> timedelta:
    """Return how long an app pauses as a whole that was asked to: a second at least, LONGEST_THROTTLE at most."""
    return max(timedelta(seconds=1), min(asked, LONGEST_THROTTLE))
