"""An attempt that can be stopped before each call of its ports, left alone, and gone on with: by doing it over.

What an attempt has come to is the list of answers that its calls have got. To go one call further, `worker.refresh`
runs from its beginning, is given those answers again, makes one call in earnest, and is stopped before the next. So
a search may leave an attempt in the middle, and come back to it in another order of things.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.explore import faults
from tests.explore.faults import Fault, Request
from tests.explore.provider import Reply, read, reply
from worker.attempt import Claim, Freshness, Saved, Trigger
from worker.errors import OutcomeUnknown
from worker.refresh import Refresher, Result, refresh
from worker.tokens import TokenSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbo_refresh.secret import Secret
    from tests.explore.world import World
    from worker.intuit import Gate

# Its own time of day makes it wait for the next refresh as long as any connection does.
SUBJECT_ID = 2
FORCED = Freshness(max_age=timedelta(0))
# Nothing can come between these and what is before them that would make a difference.
_AT_ONCE = frozenset({"store.why_not"})


class Stopped(BaseException):
    """The attempt goes no further now."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One call of a port, what it returned or raised, and when."""

    call: str
    returned: Any
    raised: Exception | None
    at: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt so far.

    Attributes:
        number: First, second, …
        next_call: What it is about to call; None once it has ended by itself.
        claim: The lease that it has taken last; None before.
        received: Refresh tokens that it has been given.
        row_refuses: The database refuses whatever it writes into the row.
        result: What it came to; None while it is under way, or if it ended with an exception.
    """

    number: int
    answered: tuple[Answered, ...] = ()
    next_call: str | None = "store.claim"
    claim: Claim | None = None
    received: tuple[str, ...] = ()
    row_refuses: bool = False
    result: Result | None = None

    @property
    def in_hand(self) -> tuple[str, ...]:
        """The tokens that it was given and that it has not yet been told are safe in the database."""
        heard = [place for place, each in enumerate(self.answered) if each.call == "intuit.answer"]
        since = self.answered[heard[-1] :] if heard else ()
        safe = any(
            each.returned in (Saved.SAVED, Saved.BEFORE) or (each.call == "store.add_candidate" and not each.raised)
            for each in since
        )
        return () if safe else self.received

    @property
    def has_sent(self) -> bool:
        """Whether it has presented a token and not ended."""
        return any(each.call == "intuit.send" for each in self.answered)


@dataclass(slots=True)
class _Script:
    """The ports of one run: answers what was answered, lets one call happen, stops before the next."""

    world: World
    given: list[Answered]
    fault: Fault | None
    row_refuses: bool
    made: Answered | None = None
    next_call: str | None = None
    at: float = 0.0
    happened: bool = False
    received: list[str] = field(default_factory=list)

    def boottime(self) -> float:
        return self.at

    def call(self, name: str, act: Callable[[], Any], subject: Any = None) -> Any:
        if self.given:
            answered = self.given.pop(0)
            if answered.call != name:
                raise AssertionError(f"it called {answered.call} before, and {name} now")
        elif not self.happened:
            answered = self.made = self._happen(name, act, subject)
        elif name in _AT_ONCE:
            return act()
        else:
            self.next_call = name
            raise Stopped
        self.at = answered.at
        if answered.raised is not None:
            raise answered.raised.with_traceback(None)
        return answered.returned

    def _happen(self, name: str, act: Callable[[], Any], subject: Any) -> Answered:
        self.happened = True
        self.at = self.world.seconds
        try:
            fault = Fault.REFUSED if self.row_refuses and name == "store.save_bare" else self.fault
            returned = act() if fault is None else faults.do(self.world, name, act, fault, subject)
        except faults.Repeat:
            self.next_call = name
            raise Stopped from None
        except Exception as error:  # noqa: BLE001  # whatever it is, the attempt is to hear it
            if isinstance(error, OutcomeUnknown) and error.salvaged is not None:
                self.received.append(error.salvaged.reveal())
            return Answered(name, None, error, self.at)
        if isinstance(returned, TokenSet):
            self.received.append(returned.refresh_token.reveal())
        return Answered(name, returned, None, self.at)


class _Port:
    """A store or an escrow whose calls go through the script."""

    def __init__(self, script: _Script, name: str, real: object) -> None:
        self._script, self._name, self._real = script, name, real

    def __getattr__(self, method: str) -> Any:
        if method == "connect":  # no step: it changes nothing anywhere
            return getattr(self._real, method)
        real, name = getattr(self._real, method), f"{self._name}.{method}"
        return lambda *args, **kwargs: self._script.call(name, lambda: real(*args, **kwargs))


class _Intuit:
    """The token endpoint in two calls: the request arrives, and the answer does."""

    def __init__(self, script: _Script) -> None:
        self._script = script

    def refresh(self, refresh_token: Secret, *, client_id: str, client_secret: Secret, gate: Gate) -> TokenSet:
        del client_id, client_secret
        value, provider = refresh_token.reveal(), self._script.world.provider

        def send() -> Reply:
            gate.check()
            return reply(provider.arrive(value))

        def hear() -> TokenSet:
            provider.end(value)
            return read(written, self._script.world.seconds)

        written: Reply = self._script.call("intuit.send", send, Request(value, gate))
        answer: TokenSet = self._script.call("intuit.answer", hear, written)
        return answer

    def revoke(self, *_: object, **__: object) -> bool:
        raise AssertionError("nobody disconnects here")


def step(attempt: Attempt, by: Refresher, world: World, fault: Fault | None = None) -> Attempt:
    """Let an attempt make its next call, with a fault or without, and go on to the one after; it may end."""
    script = _Script(world, list(attempt.answered), fault, attempt.row_refuses)
    ports: Any = (_Port(script, "store", by.store), _Port(script, "escrow", by.escrow), _Intuit(script))
    scripted = replace(by, store=ports[0], escrow=ports[1], intuit=ports[2], boottime=script.boottime)
    result: Result | None = None
    try:
        result = refresh(scripted, SUBJECT_ID, trigger=Trigger.ADHOC, freshness=FORCED)
    except Stopped:
        pass
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001, S110  # as in a task: it is over, and the row's lease tells of it
        pass
    made = script.made
    return replace(
        attempt,
        answered=attempt.answered if made is None else (*attempt.answered, made),
        next_call=script.next_call,
        claim=made.returned if made is not None and isinstance(made.returned, Claim) else attempt.claim,
        received=(*attempt.received, *script.received),
        row_refuses=attempt.row_refuses or (fault is Fault.REFUSED and attempt.next_call == "store.save"),
        result=result,
    )
