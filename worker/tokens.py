"""Reads tokens out of an answer's body. Pure: it is given text and returns values."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from qbo_refresh.secret import Secret
from worker.errors import Facts

SHORTEST_ACCESS = timedelta(minutes=1)
LONGEST_ACCESS = timedelta(days=1)
LONGEST_GRANT = timedelta(seconds=157_680_000)  # five years: Intuit's policy of 2025-11-12
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}")  # RFC 6749 A.12, without the space: visible ASCII
_SHORTEST_PLAUSIBLE = 20
_WHOLE_REFRESH_TOKEN = re.compile(r'"refresh_token"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{20,512})"')


@dataclass(frozen=True, slots=True)
class TokenSet:
    """A successful answer (RFC 6749 section 5.1), lifetimes clamped to sane bounds.

    Attributes:
        refresh_lifetime: What is left of the rolling window; None if the answer did not say, or not sensibly.
        hard_lifetime: What is left of the grant's five years; None if the answer did not say. Absent is not zero.
        odd: Names of the fields that were out of bounds or not numbers.
    """

    refresh_token: Secret
    access_token: Secret
    access_lifetime: timedelta
    refresh_lifetime: timedelta | None
    hard_lifetime: timedelta | None
    odd: tuple[str, ...] = ()
    facts: Facts = field(default_factory=Facts)


def _seconds(body: dict[str, Any], name: str) -> timedelta | None:
    """Return a positive duration of at most five years; None if it is absent or no such number."""
    raw = body.get(name)
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    try:
        seconds = float(raw)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    return min(timedelta(seconds=min(seconds, LONGEST_GRANT.total_seconds())), LONGEST_GRANT)


def _secret(body: dict[str, Any], name: str) -> Secret | None:
    raw = body.get(name)
    return Secret(raw) if isinstance(raw, str) and _TOKEN.fullmatch(raw) else None


def parse(body: dict[str, Any], facts: Facts) -> TokenSet | None:
    """Return the tokens of a decoded answer, or None if it holds no usable pair.

    Numbers have been seen as strings. An access token with no sensible lifetime is kept for the shortest one, so that
    it is soon renewed; a refresh token with none is kept without.
    """
    refresh_token, access_token = _secret(body, "refresh_token"), _secret(body, "access_token")
    if refresh_token is None or access_token is None:
        return None
    access = _seconds(body, "expires_in")
    refresh = _seconds(body, "x_refresh_token_expires_in")
    hard = _seconds(body, "x_refresh_token_hard_expires_in")
    clamped = min(max(access or SHORTEST_ACCESS, SHORTEST_ACCESS), LONGEST_ACCESS)
    odd = [] if access == clamped else ["expires_in"]
    for name, read in (("x_refresh_token_expires_in", refresh), ("x_refresh_token_hard_expires_in", hard)):
        if name in body and (read is None or _beyond(body[name])):
            odd.append(name)
    return TokenSet(refresh_token, access_token, clamped, refresh, hard, tuple(odd), facts)


def _beyond(raw: object) -> bool:
    return isinstance(raw, int | float | str) and float(raw) > LONGEST_GRANT.total_seconds()


def decode(text: str) -> dict[str, Any] | None:
    """Return the JSON object in an answer's body, or None if it is anything else."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def salvage(text: str) -> Secret | None:
    """Return the refresh token of a broken 200 if it can be read whole: a closed JSON string of plausible length."""
    body = decode(text)
    if body is not None:
        token = _secret(body, "refresh_token")
        return token if token is not None and len(token.reveal()) >= _SHORTEST_PLAUSIBLE else None
    found = _WHOLE_REFRESH_TOKEN.search(text)
    return Secret(found.group(1)) if found else None
