"""Where a decorated function has its token does not matter to its callers; when its body runs does."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

import qbo_refresh
from qbo_refresh import testing as qbo_testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from qbo_refresh import AccessToken
    from qbo_refresh.testing import FakeConnections

Seen = tuple[object, ...]


@pytest.fixture(autouse=True)
def connections() -> Iterator[FakeConnections]:
    with qbo_testing.fake() as made:
        made.connect(7)
        yield made


def in_the_middle(connection_id: int, token: AccessToken, query: str = "all") -> Seen:
    return connection_id, token.version, query


def first(token: AccessToken, connection_id: int, query: str = "all") -> Seen:
    return connection_id, token.version, query


def by_position_only(connection_id: int, token: AccessToken, query: str = "all", /) -> Seen:
    return connection_id, token.version, query


def with_a_default(connection_id: int, token: AccessToken | None = None, query: str = "all") -> Seen:
    return connection_id, token and token.version, query


def before_the_rest(connection_id: int, token: AccessToken, *queries: str, **options: str) -> Seen:
    return connection_id, token.version, *(queries or ("all",)), *options.items()


def by_name_only(connection_id: int, query: str = "all", *, token: AccessToken, **options: str) -> Seen:
    return connection_id, token.version, query, *options.items()


ALL = [in_the_middle, first, by_position_only, with_a_default, before_the_rest, by_name_only]


@pytest.mark.parametrize("function", ALL)
def test_callers_give_what_is_left_as_if_there_were_no_token(function: Callable[..., Seen]) -> None:
    decorated = qbo_refresh.with_access_token(function)
    assert "token" not in inspect.signature(decorated).parameters
    assert decorated(7) == (7, 1, "all")
    assert decorated(7, "some") == (7, 1, "some")


@pytest.mark.parametrize("function", [in_the_middle, first, with_a_default, by_name_only])
def test_arguments_by_name_reach_the_function_by_name(function: Callable[..., Seen]) -> None:
    assert qbo_refresh.with_access_token(function)(query="some", connection_id=7) == (7, 1, "some")


def test_the_rest_by_position_and_by_name_comes_after_the_token() -> None:
    assert qbo_refresh.with_access_token(before_the_rest)(7, "a", "b", c="d") == (7, 1, "a", "b", ("c", "d"))
    assert qbo_refresh.with_access_token(by_name_only)(7, "a", c="d") == (7, 1, "a", ("c", "d"))


def test_a_second_call_after_a_rejected_token_has_the_same_arguments() -> None:
    seen: list[Seen] = []

    @qbo_refresh.with_access_token
    def fetch(connection_id: int, token: AccessToken, *queries: str) -> None:
        seen.append((connection_id, token.version, *queries))
        if token.version == 1:
            raise qbo_refresh.TokenRejected

    fetch(7, "a", "b")
    assert seen == [(7, 1, "a", "b"), (7, 2, "a", "b")]


class Client:
    """A host's, with what it fetches as methods."""

    @qbo_refresh.with_access_token
    def fetch(self, token: AccessToken, connection_id: int) -> Seen:
        """Tell what it was called with."""
        return type(self), token.version, connection_id


def test_a_method_is_called_on_its_object() -> None:
    assert Client().fetch(7) == (Client, 1, 7)


@pytest.mark.parametrize("function", [in_the_middle, by_name_only])
def test_a_caller_who_brings_a_token_is_refused(function: Callable[..., Seen]) -> None:
    with pytest.raises(TypeError, match="token"):
        qbo_refresh.with_access_token(function)(7, token="mine")


async def asynchronous(connection_id: int, token: AccessToken) -> None:
    assert token.connection_id == connection_id


def generator(connection_id: int, token: AccessToken) -> Iterator[str]:
    yield f"{connection_id} {token}"


async def asynchronous_generator(connection_id: int, token: AccessToken) -> AsyncIterator[str]:
    yield f"{connection_id} {token}"


@pytest.mark.parametrize(
    "function", [asynchronous, generator, asynchronous_generator, functools.partial(generator, connection_id=7)]
)
def test_a_function_whose_body_runs_after_the_call_is_refused_when_it_is_decorated(
    function: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError, match="its body runs when the token is forgotten already"):
        qbo_refresh.with_access_token(function)


def test_what_takes_anything_has_no_argument_for_a_token() -> None:
    with pytest.raises(TypeError, match="no argument 'token'"):
        qbo_refresh.with_access_token(lambda connection_id, **token: (connection_id, token))
