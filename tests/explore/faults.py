"""What can go wrong at one call of a port: what happens in the world, and what the attempt hears of it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

from tests.explore.provider import Reply, read
from worker.errors import ClientRejected, GrantRejected, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.explore.world import World


class Fault(StrEnum):
    """One thing that goes wrong: the first five with a process or a server, the others at one call of a port."""

    DIES = "the worker dies"
    FROZEN = "the worker is frozen"
    UNSWEPT = "nobody sweeps for a day"
    FLUSHED = "FLUSHALL"
    FAILED_OVER = "PostgreSQL fails over"
    UNKNOWN = "done, but its acknowledgement is lost: it is done again"
    REFUSED = "refused by the database, for good"
    NOT_KEPT = "Redis does not answer"
    UNREACHABLE = "Intuit cannot be reached"
    REQUEST_LOST = "the request is lost"
    REQUEST_LATE = "the request arrives when nobody waits for its answer any more"
    LIE = "Intuit refuses the grant though it lives"
    WRONG_SECRET = "Intuit refuses the client secret"  # noqa: S105  # what happens
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
    "escrow.find": (Fault.NOT_KEPT,),
    "intuit.send": (
        Fault.UNREACHABLE,
        Fault.REQUEST_LOST,
        Fault.REQUEST_LATE,
        Fault.LIE,
        Fault.WRONG_SECRET,
    ),
    "intuit.answer": (Fault.ANSWER_LOST, Fault.ANSWER_CUT),
}


class Repeat(Exception):  # noqa: N818  # no error, a word
    """The call was made and its caller heard nothing: it makes it again, whatever happens between."""


def do(world: World, call: str, act: Callable[[], Any], fault: Fault, subject: Any) -> Any:  # noqa: PLR0911  # a table
    """Let one call go wrong; return or raise what its caller hears.

    Args:
        world: Where it goes wrong.
        call: Its name.
        act: What it would do.
        fault: One of `AT[call]`.
        subject: The token to be presented, or the answer on its way; None elsewhere.

    Raises:
        Repeat: The caller hears nothing and makes the call again.
    """
    match fault:
        case Fault.UNKNOWN:
            act()
            if call == "escrow.put":
                return False  # nothing is repeated there: the copy is there, and not counted on
            raise Repeat
        case Fault.REFUSED:
            raise IntegrityError(None, None, Exception("refused"))
        case Fault.NOT_KEPT:
            return False if call == "escrow.put" else None
        case Fault.UNREACHABLE:
            raise Unavailable("unreachable")
        case Fault.REQUEST_LOST:
            raise OutcomeUnknown("no_answer")
        case Fault.REQUEST_LATE:
            world.provider.keep_back(str(subject))
            raise OutcomeUnknown("no_answer")
        case Fault.LIE:
            raise GrantRejected
        case Fault.WRONG_SECRET:
            raise ClientRejected("invalid_client")
        case Fault.ANSWER_LOST:
            world.provider.let_pass()
            raise OutcomeUnknown("no_answer")
        case Fault.ANSWER_CUT:
            assert isinstance(subject, Reply)
            world.provider.let_pass()
            return read(subject, world.seconds, whole=False)
        case _:
            raise AssertionError(f"{fault} happens to no call")
