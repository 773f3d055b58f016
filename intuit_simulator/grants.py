"""One grant and its refresh tokens: who is current, what was replaced, what has ended it. Pure; `now` is passed in."""

from dataclasses import dataclass, field
from typing import Any, Final

from intuit_simulator import tokens
from intuit_simulator.policy import Policy

# What a grant remembers of its past. Older values are as unknown to it as invented ones.
REMEMBERED: Final = 100


@dataclass(slots=True, eq=False)
class Token:
    """A refresh token value, alive or replaced.

    Attributes:
        open_calls: how many calls present it at this moment.
        answered_at: when the latest call with it was over, by the monotonic clock.
    """

    value: str
    grant: "Grant"
    issued_at: float
    superseded_at: float | None = None
    open_calls: int = 0
    answered_at: float = float("-inf")

    @property
    def fingerprint(self) -> str:
        """How the journal names it."""
        return tokens.fingerprint(self.value)

    def begin_call(self, first_byte_at: float) -> bool:
        """Note that a call presents this token; return whether it overlaps another, which may already be over."""
        overlaps = self.open_calls > 0 or first_byte_at < self.answered_at
        self.open_calls += 1
        return overlaps

    def end_call(self, last_byte_at: float) -> None:
        """Note that the answer to a call has been written, or given up."""
        self.open_calls -= 1
        self.answered_at = max(self.answered_at, last_byte_at)


@dataclass(slots=True, eq=False)
class Grant:
    """What one company allowed one app. `ended` says why it is over, None while it lives."""

    realm_id: str
    client_id: str
    granted_at: float
    current: Token = field(init=False)
    superseded: list[Token] = field(default_factory=list)
    access_key: str = ""
    access_issued_at: float = float("-inf")
    ended: str | None = None
    calls: int = 0
    refreshes: int = 0
    rotations: int = 0
    refusals: int = 0

    def hard_expires_at(self, policy: Policy) -> float:
        """Return when the grant ends whatever is done."""
        return self.granted_at + policy.hard_seconds

    def expires_at(self, policy: Policy) -> float:
        """Return when the current token dies unless it is replaced before."""
        return min(self.current.issued_at + policy.window_seconds, self.hard_expires_at(policy))

    def is_due_for_rotation(self, policy: Policy, now: float) -> bool:
        """Say whether a refresh now brings a new value."""
        wait = policy.rotate_after_seconds
        return wait <= 0 or now - self.current.issued_at >= wait

    def why_over(self, policy: Policy, now: float) -> str | None:
        """Return why the grant is over, None while it lives."""
        if self.ended:
            return self.ended
        if now >= self.hard_expires_at(policy):
            return "hard expiry"
        if now >= self.expires_at(policy):
            return "unused for too long"
        return None

    def state(self, policy: Policy, now: float) -> "GrantState":
        """Return all that an observer may know."""
        over = self.why_over(policy, now)
        return GrantState(
            realm_id=self.realm_id,
            client_id=self.client_id,
            alive=over is None,
            ended=over,
            refresh_token=self.current.value,
            superseded=[token.value for token in self.superseded],
            granted_at=self.granted_at,
            issued_at=self.current.issued_at,
            expires_in=self.expires_at(policy) - now,
            hard_expires_in=self.hard_expires_at(policy) - now,
            calls=self.calls,
            refreshes=self.refreshes,
            rotations=self.rotations,
            refusals=self.refusals,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantState:
    """A grant as the admin API shows it; times are seconds of the simulator's clock.

    Attributes:
        refresh_token: the current value, also of a grant that has ended.
        superseded: earlier values, oldest first; the last hundred of them.
        ended: why the grant is over; None while `alive`.
        calls: token calls that presented a token of this grant.
        refreshes: those that were answered with tokens.
        refusals: those that the grant refused.
    """

    realm_id: str
    client_id: str
    alive: bool
    ended: str | None
    refresh_token: str = field(repr=False)
    superseded: list[str] = field(repr=False)
    granted_at: float
    issued_at: float
    expires_in: float
    hard_expires_in: float
    calls: int
    refreshes: int
    rotations: int
    refusals: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON's types; `dataclasses.asdict` copies deeply and is five times slower."""
        return {name: getattr(self, name) for name in self.__slots__}
