"""What can go wrong at one call of a port: what happens in the world, and what the attempt hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from tests.explore.provider import Reply, read
from worker.errors import ClientRejected, GrantRejected, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.explore.world import World
    from worker.intuit import Gate


class Fault(StrEnum):
    """One thing that goes wrong: the first five with a process or a server, the others at one call of a port."""

    DIES = "the worker dies"
    FROZEN = "the worker is frozen"
    UNSWEPT = "nobody sweeps for a day"
    FLUSHED = "FLUSHALL"
    FAILED_OVER = "PostgreSQL fails over"
    UNKNOWN = "done, but its acknowledgement is lost: it is done again"
    REFUSED = "refused by the database, for good"
    NOT_KEPT = "Redis does not take it"
    SILENT = "Redis does not answer"
    UNREACHABLE = "Intuit cannot be reached"
    REQUEST_LOST = "the request is lost"
    REQUEST_LATE = "the request arrives when nobody waits for its answer any more"
    LIE = "Intuit refuses the grant though it lives"
    WRONG_SECRET = "Intuit refuses the client secret"  # what happens
    ANSWER_LOST = "the answer is lost"
    ANSWER_CUT = "the answer is cut after the refresh token"


_COMMIT = (Fault.UNKNOWN,)
AT: dict[str, tuple[Fault, ...]] = {
    "store.claim": _COMMIT,
    "store.add_candidate": _COMMIT,
    "store.refuse": _COMMIT,
    "store.conclude": _COMMIT,
    "store.save": (Fault.UNKNOWN, Fault.REFUSED),
    "store.save_bare": (Fault.UNKNOWN, Fault.REFUSED),
    "escrow.put": (Fault.NOT_KEPT, Fault.UNKNOWN),
    "escrow.find": (Fault.SILENT,),
    "intuit.send": (
        Fault.UNREACHABLE,
        Fault.REQUEST_LOST,
        Fault.REQUEST_LATE,
        Fault.LIE,
        Fault.WRONG_SECRET,
    ),
    "intuit.answer": (Fault.ANSWER_LOST, Fault.ANSWER_CUT),
}


class Repeat(Exception):  # no error, a word
    """The call was made and its caller heard nothing: it makes it again, whatever happens between."""


@dataclass(frozen=True, slots=True)
class Request:
    """A token on its way to Intuit, and what is asked at the first byte."""

    token: str
    gate: Gate


_HEARD: dict[Fault, Callable[[], Exception]] = {
    Fault.REFUSED: lambda: IntegrityError(None, None, Exception("refused")),
    Fault.UNREACHABLE: lambda: Unavailable("unreachable"),
    Fault.REQUEST_LOST: lambda: OutcomeUnknown("no_answer"),
    Fault.REQUEST_LATE: lambda: OutcomeUnknown("no_answer"),
    Fault.LIE: GrantRejected,
    Fault.WRONG_SECRET: lambda: ClientRejected("invalid_client"),
    Fault.ANSWER_LOST: lambda: OutcomeUnknown("no_answer"),
}


def do(world: World, call: str, act: Callable[[], Any], fault: Fault, subject: Request | Reply | None) -> Any:
    """Let one call go wrong; return or raise what its caller hears.

    Args:
        world: Where it goes wrong.
        call: Its name.
        act: What it would do.
        fault: One of `AT[call]`.
        subject: What is on its way to Intuit, or from there; None elsewhere.

    Raises:
        Repeat: The caller hears nothing and makes the call again.
    """
    if isinstance(subject, Request):
        subject.gate.check()
        if fault is Fault.REQUEST_LATE:
            world.provider.keep_back(subject.token)
    if isinstance(subject, Reply):
        world.provider.let_pass()
        if fault is Fault.ANSWER_CUT:
            return read(subject, world.seconds, whole=False)
    if fault in _HEARD:
        heard = _HEARD[fault]
        raise heard()
    if fault is Fault.UNKNOWN:
        act()
        if call != "escrow.put":  # that is not repeated: the copy is there, and not counted on
            raise Repeat
    return None if fault is Fault.SILENT else False
