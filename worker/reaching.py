"""Why PostgreSQL or Redis cannot be reached, in a sentence, and whether waiting may help.

Drivers tell these apart in their text alone: a refused connection has no SQLSTATE. That text is matched and never
repeated, for it can quote an address with its password. Nothing but a sentence and the patience of a starting worker
depends on it.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

import redis

PING_WITHIN_S = 2.0
_DEEPEST = 5  # more than any chain of ours


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a server cannot be reached.

    Attributes:
        sentence: Names the variable and what to do.
        may_pass: It may be there later without anybody changing the configuration.
    """

    sentence: str
    may_pass: bool


# What the driver's text contains, in what we say, and whether it may pass. The first that fits counts.
_POSTGRES = (
    ("password authentication failed", "it refuses the password: correct it.", False),
    ("no password supplied", "it wants a password: add it.", False),
    ("auth failed", "it refuses the user or the password: correct them.", False),
    ("no such user", "it has no such user: correct it.", False),
    ("no such database", "it has no such database: create it or correct the name.", False),
    ("does not exist", "it has no such database or user: create it or correct the name.", False),
    ("pg_hba.conf", "it does not let this host and user in: add them to its pg_hba.conf.", False),
    ("support SSL", "it does not speak TLS: leave out sslmode.", False),
    ("certificate", "its certificate is not trusted: see sslrootcert.", False),
    ("starting up", "it is starting.", True),
    ("shutting down", "it is shutting down.", True),
    ("too many", "it takes no more connections.", True),
    ("remaining connection slots", "it takes no more connections.", True),
    ("resolve host", "its host name is not known (yet): is it right?", True),
    ("refused", "nothing listens there: is it running, and are host and port right?", True),
    ("timeout", "it does not answer: is it running, and are host and port right?", True),
)


def database(error: BaseException) -> Trouble:
    """Say why PostgreSQL could not be reached: from the driver's error, or one of ours that it caused."""
    text = _texts(error)
    for pattern, why, may_pass in _POSTGRES:
        if pattern in text:
            return Trouble(f"PostgreSQL at DATABASE_URL cannot be reached: {why}", may_pass)
    if isinstance(error, ValueError):
        return malformed("DATABASE_URL")
    return Trouble("PostgreSQL at DATABASE_URL cannot be reached: is it running, and is the URL right?", may_pass=True)


def broker(url: str) -> Trouble | None:
    """Ask Redis at REDIS_URL once, for two seconds at most; None if it answers."""
    client = redis.Redis.from_url(url, socket_timeout=PING_WITHIN_S, socket_connect_timeout=PING_WITHIN_S)
    try:
        client.ping()
    except redis.RedisError as error:
        return redis_trouble(error)
    finally:
        client.close()
    return None


def redis_trouble(error: redis.RedisError) -> Trouble:
    """Say why Redis could not be used."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return Trouble("Redis at REDIS_URL refuses the user or the password: correct them.", may_pass=False)
    if isinstance(error, redis.exceptions.InvalidResponse):
        return Trouble("What answers at REDIS_URL is no Redis: are host and port right?", may_pass=True)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        is_nameless = isinstance(error.__context__, socket.gaierror)
        why = "is its host name right?" if is_nameless else "is it running, and are host and port right?"
        return Trouble(f"Redis at REDIS_URL cannot be reached: {why}", may_pass=True)
    # Its own first word, MISCONF or OOM; what follows may quote what was sent.
    code = re.match(r"[A-Z]+\b", str(error))
    return Trouble(f"Redis at REDIS_URL refuses to work ({code[0] if code else type(error).__name__}).", may_pass=True)


# As above, for whatever kombu speaks to.
_EVENT_BROKER = (
    ("invalid username-password", "refuses the user or the password: correct them."),
    ("Authentication required", "wants a password: add it."),
    ("ACCESS_REFUSED", "refuses the user, the password or the virtual host: correct them."),
    ("NOT_ALLOWED", "refuses the virtual host: correct it, or let the user in."),
    ("certificate", "has a certificate that is not trusted here."),
)


def event_broker(error: BaseException, reason: str) -> str:
    """Say why the broker at EVENT_BROKER_URL takes no events.

    Args:
        error: What is not repeated.
        reason: `unreachable`, or another word if something answers there.
    """
    text = _texts(error)
    whys = [why for pattern, why in _EVENT_BROKER if pattern in text]
    if not whys and reason == "unreachable":
        whys = ["cannot be reached: is it running, and are scheme, host and port right?"]
    return f"EVENT_BROKER_URL's broker {(whys or ['does not answer as its scheme says: is it the right one?'])[0]}"


def malformed(variable: str) -> Trouble:
    """Say that a URL cannot be read. The parser's own text may quote a part of its password."""
    return Trouble(
        f"{variable} is malformed: write special characters in its password as %40 and the like, and its port in"
        " digits.",
        may_pass=False,
    )


def _texts(error: BaseException) -> str:
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(texts) < _DEEPEST:
        texts.append(str(seen))
        seen = seen.__cause__
    return "\n".join(texts)
