from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from dataclasses import dataclass
from datetime import timedelta

import pytest

from qbo_refresh.secret import Secret
from worker.tokens import TokenSet

CANARY = "canary-7f3a"
SECRET = Secret(CANARY)


@dataclass(frozen=True)
class Holder:
    """What passes a secret on."""

    secret: Secret


def logged() -> str:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%s %r", (SECRET, SECRET), None)
    return record.getMessage()


def shown_in_traceback() -> str:
    def fail(token: Secret) -> None:
        raise ValueError(token)

    try:
        fail(SECRET)
    except ValueError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    raise AssertionError


@pytest.mark.parametrize(
    "shown",
    [
        repr(SECRET),
        str(SECRET),
        f"{SECRET}",
        f"{SECRET!r:>40}",
        "%s %r" % (SECRET, SECRET),  # noqa: UP031  # what a log call does
        repr([SECRET]),
        repr({"token": SECRET}),
        repr(Holder(SECRET)),
        repr(TokenSet(SECRET, SECRET, timedelta(1), None, None)),
        repr(vars(type(SECRET))),
        repr(dir(SECRET)),
        logged(),
        shown_in_traceback(),
    ],
)
def test_a_secret_shows_nothing_of_itself(shown: str) -> None:
    assert CANARY not in shown


def test_a_secret_reveals_itself_when_it_is_asked() -> None:
    assert SECRET.reveal() == CANARY


def test_a_secrets_attributes_hold_no_text() -> None:
    assert CANARY not in repr([getattr(SECRET, name) for name in dir(SECRET) if not name.startswith("__")])
    assert not hasattr(SECRET, "__dict__")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_is_not_pickled_alone_or_inside_something(protocol: int) -> None:
    for value in (SECRET, Holder(SECRET), [SECRET]):
        with pytest.raises(TypeError, match="not pickled") as caught:
            pickle.dumps(value, protocol)
        assert CANARY not in str(caught.value)


def test_a_secret_is_no_json() -> None:
    with pytest.raises(TypeError) as caught:
        json.dumps({"token": SECRET})
    assert CANARY not in str(caught.value)


def test_copies_are_the_secret_itself() -> None:
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy([SECRET])[0] is SECRET


def test_a_secret_does_not_change() -> None:
    with pytest.raises(AttributeError):
        SECRET.other = "x"
    with pytest.raises(AttributeError):
        SECRET._reveal = lambda: "x"  # noqa: SLF001  # the attempt is the test


def test_secrets_are_equal_if_their_contents_are() -> None:
    assert Secret(CANARY) == SECRET
    assert Secret("other") != SECRET
    assert CANARY != SECRET
    assert {SECRET: 1}[Secret(CANARY)] == 1
    assert Secret("ümlaut") == Secret("ümlaut")
    assert not Secret("")
