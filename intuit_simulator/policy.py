"""What the simulated provider does with old tokens, and its three clocks. Pure."""

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final

DAY_SECONDS: Final = 86_400


class PolicyName(StrEnum):
    """The named ways to treat a refresh token that has been replaced."""

    STRICT = "strict"
    GRACE = "grace"
    REUSE_REVOKES = "reuse-revokes"
    DAILY = "daily"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How tokens rotate and how long they live; all durations in seconds.

    Attributes:
        rotate_after_seconds: a refresh issues a new value only when the current one is this old; 0 rotates each time.
        grace_seconds: how long a replaced value is still accepted.
        reuse_revokes: whether a replaced value presented after its grace ends the grant.
        reject_overlap: whether the second of two overlapping calls with one token is refused.
        revoke_spreads: whether revoking any token of an app and realm, even one of an older grant, ends the present
            grant too. Users have reported it of Intuit.
        revoke_replaced: whether revoking a replaced value ends its grant; RFC 7009 lets a provider ignore it.
        access_token_length: characters of an access token, at least 64.
    """

    name: PolicyName = PolicyName.STRICT
    rotate_after_seconds: float = 0
    grace_seconds: float = 0
    reuse_revokes: bool = False
    reject_overlap: bool = True
    revoke_spreads: bool = True
    revoke_replaced: bool = True
    access_seconds: int = 3600
    window_seconds: int = 8_726_400
    hard_seconds: int = 157_680_000
    access_token_length: int = 800


PRESETS: Final = {
    PolicyName.STRICT: Policy(),
    PolicyName.GRACE: Policy(name=PolicyName.GRACE, grace_seconds=DAY_SECONDS),
    PolicyName.REUSE_REVOKES: Policy(name=PolicyName.REUSE_REVOKES, reuse_revokes=True),
    PolicyName.DAILY: Policy(name=PolicyName.DAILY, rotate_after_seconds=DAY_SECONDS),
}

_TYPES: Final = {f.name: type(getattr(Policy(), f.name)) for f in fields(Policy) if f.name != "name"}


def make(name: str, **settings: object) -> Policy:
    """Return the named policy with some settings changed; raises ValueError for an unknown name or a wrong value."""
    try:
        preset = PRESETS[PolicyName(name)]
    except ValueError:
        known = ", ".join(PRESETS)
        raise ValueError(f"unknown policy {name!r}; known: {known}") from None
    for key, value in settings.items():
        if key not in _TYPES:
            raise ValueError(f"unknown policy setting {key!r}; known: {', '.join(_TYPES)}")
        if _TYPES[key] is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{key} must be true or false")
        elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{key} must be a number of at least 0")
    return replace(preset, **settings)  # type: ignore[arg-type]  # checked just above
