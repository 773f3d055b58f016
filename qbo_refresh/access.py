"""The calls of a host: an access token, another one after a 401, whether syncs may run. They never call Intuit.

What they do in each state is a table in docs/integrating.md.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from qbo_refresh import other_side, watching
from qbo_refresh.database import DatabaseAway
from qbo_refresh.errors import TemporarilyUnavailable, TokenRejected
from qbo_refresh.standing import ONCE_IN, SHORTEST
from qbo_refresh.status import Hold
from qbo_refresh.tokens import AccessToken, opened
from qbo_refresh.watching import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qbo_refresh.outbox import OutboxEvent
    from qbo_refresh.standing import Standing

MIN_TTL = timedelta(minutes=5)
DATABASE_RETRY_AFTER_S = 5.0
# Suspicion alone takes no valid token from anybody: it is quiet, and mostly passes.
_QUIET = frozenset({str(Hold.SUSPECT)})


def access_token(
    connection: int | str, *, min_ttl: timedelta | float = MIN_TTL, timeout: timedelta | float = TIMEOUT
) -> AccessToken:
    """Return a valid access token of a connection; renewed first, by the worker, if it is about to expire.

    A token that lives for `min_ttl` costs one indexed read. If it has less time left and cannot be renewed in time, it
    is handed out all the same while it is valid.

    Args:
        connection: Our id, `external:…` or `realm:…`.
        min_ttl: Renew it first if it has no more time left than this; a timedelta, or seconds.
        timeout: How long to wait for that at most; a timedelta, or seconds.

    Raises:
        SyncPaused: Its syncs are paused; suspicion alone does not count.
        TemporarilyUnavailable: There is no valid token now; `retry_after` tells when asking again may help.
        UnknownConnection: No connection has this name.
        ConfigurationError: This process is not set up.
    """
    least_s = watching.seconds(min_ttl)
    least = timedelta(seconds=least_s)
    with _sentence():
        side = other_side.here()
        before = side.read(connection)

        def fresh(standing: Standing) -> AccessToken | None:
            standing.check_syncable(apart_from=_QUIET)
            return opened(standing, side.keyring) if standing.is_fresh(least) else None

        found = fresh(before)
        if found is not None:
            return found
        try:
            before.check_refreshable()
            return watching.wait(side, before, min_ttl_s=least_s, answer=fresh, timeout_s=watching.seconds(timeout))
        except TemporarilyUnavailable:
            if not before.lives(min(SHORTEST, least)):
                raise
            return opened(before, side.keyring)


def reject(token: AccessToken, *, timeout: timedelta | float = TIMEOUT) -> AccessToken:
    """Return another access token after QuickBooks answered 401 to this one.

    If the connection has a newer one, that is it. Else it is renewed, once however many report it, and at most once a
    minute for each connection.

    Args:
        token: The one that was refused.
        timeout: How long to wait at most; a timedelta, or seconds.

    Raises:
        SyncPaused, TemporarilyUnavailable, UnknownConnection, ConfigurationError: As `access_token`.
    """
    with _sentence():
        side = other_side.here()
        before = side.read(token.connection_id)

        def newer(standing: Standing) -> AccessToken | None:
            standing.check_syncable(apart_from=_QUIET)
            renewed = standing.version > token.version and standing.lives(SHORTEST)
            return opened(standing, side.keyring) if renewed else None

        found = newer(before)
        if found is not None:
            return found
        before.check_refreshable()
        if before.lease_id is None and before.since_attempt is not None and before.since_attempt < ONCE_IN:
            raise before.unavailable("refreshed_just_now", ONCE_IN - before.since_attempt)
        return watching.wait(side, before, min_ttl_s=None, answer=newer, timeout_s=watching.seconds(timeout))


def ensure_syncable(connection: int | str) -> int:
    """Return our id of a connection whose syncs may run.

    Raises:
        SyncPaused: They are paused, for whatever reason.
        TemporarilyUnavailable: PostgreSQL is away, so that nobody knows.
        UnknownConnection, ConfigurationError: As `access_token`.
    """
    with _sentence():
        standing = other_side.here().read(connection)
        standing.check_syncable()
        return standing.connection_id


def events(after: int = 0, *, limit: int = 100) -> Sequence[OutboxEvent]:
    """Return what happened to connections after an event, oldest first; keep the last one's `id` for the next call.

    Args:
        after: The `id` of the last event that was dealt with; 0 for all that are kept.
        limit: The most events to return.

    Raises:
        TemporarilyUnavailable, ConfigurationError: As `access_token`.
    """
    with _sentence():
        return other_side.here().events(after, limit)


def with_access_token(
    function: Callable[..., Any] | None = None,
    *,
    connection_arg: str = "connection_id",
    token_arg: str = "token",  # noqa: S107  # the name of an argument
    min_ttl: timedelta | float = MIN_TTL,
    timeout: timedelta | float = TIMEOUT,
) -> Callable[..., Any]:
    """Decorate a function that takes a connection and an access token: callers give the connection alone.

    If it raises TokenRejected, it is called a second time, with the token that `reject` returns.

    Args:
        function: The function, when used without parentheses.
        connection_arg: Which of its arguments is the connection.
        token_arg: Which of its arguments is given the token.
        min_ttl: As `access_token`.
        timeout: As `access_token`.

    Raises:
        TypeError: It has no such arguments, or its body runs after the call: `async def`, or a generator.
    """

    def decorate(wrapped: Callable[..., Any]) -> Callable[..., Any]:
        _check_runs_when_called(wrapped)
        whole = inspect.signature(wrapped)
        _check_arguments(wrapped, whole, token_arg, connection_arg)
        callers = _without(whole, token_arg)

        def run(bound: inspect.BoundArguments, token: AccessToken) -> Any:
            given = _with(bound, whole, {token_arg: token})
            return wrapped(*given.args, **given.kwargs)

        @functools.wraps(wrapped)
        def call(*args: Any, **kwargs: Any) -> Any:
            if token_arg in kwargs:  # it would pass as one of `**options`, and take the place of ours
                raise TypeError(f"{_name(wrapped)} is given its {token_arg!r}: leave it out")
            bound = callers.bind(*args, **kwargs)
            bound.apply_defaults()
            with access_token(bound.arguments[connection_arg], min_ttl=min_ttl, timeout=timeout) as token:
                try:
                    return run(bound, token)
                except TokenRejected:
                    with reject(token, timeout=timeout) as another:
                        return run(bound, another)

        call.__signature__ = callers  # type: ignore[attr-defined]  # what Celery and others look at
        return call

    return decorate if function is None else decorate(function)


def _check_runs_when_called(function: Callable[..., Any]) -> None:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_one(function) for is_one in kinds):
        raise TypeError(
            f"{_name(function)} is async or a generator: its body runs when the token is forgotten already. Take"
            " access_token() within it."
        )


def _check_arguments(function: Callable[..., Any], signature: inspect.Signature, *names: str) -> None:
    for name in names:
        parameter = signature.parameters.get(name)
        if parameter is None or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{_name(function)} has no argument {name!r}: see with_access_token's options")


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", repr(function)))  # a functools.partial has none


def _without(whole: inspect.Signature, token_arg: str) -> inspect.Signature:
    return whole.replace(parameters=[each for name, each in whole.parameters.items() if name != token_arg])


def _with(bound: inspect.BoundArguments, whole: inspect.Signature, token: dict[str, Any]) -> inspect.BoundArguments:
    """Return the same arguments with the token in its place, wherever the function has it."""
    given = whole.bind_partial()
    given.arguments.update(bound.arguments | token)
    return given


@contextlib.contextmanager
def _sentence() -> Iterator[None]:
    """Say that PostgreSQL is away as every other reason to come back later."""
    try:
        yield
    except DatabaseAway:
        raise TemporarilyUnavailable("database_unavailable", DATABASE_RETRY_AFTER_S) from None
