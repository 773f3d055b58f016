"""Values of tokens and codes that look like Intuit's, and their fingerprints. Nothing here is a real credential."""

import hashlib
import random
from typing import Final

_RANDOM: Final = random.SystemRandom()
_BITS: Final = random.Random(_RANDOM.getrandbits(128))
_ACCESS_HEAD: Final = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2IiwieC5vcmciOiJIMCJ9.."
_FILLER: Final = "c2ltdWxhdGVkLW5vdC1hLXJlYWwtdG9rZW4" * 200
KEY_LENGTH: Final = 24


def refresh_token(expires_at: float) -> str:
    """Return a new refresh token of 41 characters; like Intuit's it carries its expiry, which nobody should parse."""
    return f"RT1-{_BITS.getrandbits(8):03d}-H0-{int(expires_at) % 10**10:010d}{_BITS.getrandbits(80):020x}"


def access_key() -> str:
    """Return the random part of a new access token."""
    return f"{_BITS.getrandbits(96):024x}"


def access_token(key: str, length: int) -> str:
    """Return the access token with that random part, filled up to about `length` characters."""
    return f"{_ACCESS_HEAD}{key}.{_FILLER}"[: max(length, len(_ACCESS_HEAD) + KEY_LENGTH)]


def key_of(token: str) -> str | None:
    """Return the random part of an access token, or None if it is not one of ours."""
    if not token.startswith(_ACCESS_HEAD):
        return None
    return token[len(_ACCESS_HEAD) : len(_ACCESS_HEAD) + KEY_LENGTH]


def authorization_code() -> str:
    """Return a new authorization code."""
    return f"AB1{_BITS.getrandbits(10):010d}{_BITS.getrandbits(148):037x}"


def transaction_id(now: float) -> str:
    """Return a value for the header intuit_tid."""
    return f"1-{int(now) & 0xFFFFFFFF:08x}-{_BITS.getrandbits(96):024x}"


def fingerprint(value: str) -> str:
    """Return the first 16 hex digits of the SHA-256 of a token or secret, by which the journal names it."""
    return hashlib.sha256(value.encode()).hexdigest()[:16]
