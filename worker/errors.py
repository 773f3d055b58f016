"""What Intuit's answer can be other than tokens. Each type answers: may I send this again, and whose fault is it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from qbo_refresh.secret import Secret


@dataclass(frozen=True, slots=True)
class Facts:
    """What is noted of one answer, whatever it said.

    Attributes:
        http_status: None if no status line was read.
        intuit_tid: Intuit's transaction id, which their support asks for; None if the answer had none.
        last_byte_at: `clock.boottime()` when the last byte had been read; None if it never was.
    """

    http_status: int | None = None
    intuit_tid: str | None = None
    last_byte_at: float | None = None


class IntuitError(Exception):
    """Root of what Intuit, or the way there, can answer instead of tokens.

    Attributes:
        reason: A word of a closed set or an error code of RFC 6749; never free text of the answer.
    """

    def __init__(self, reason: str, facts: Facts = Facts()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.facts = facts


class GrantRejected(IntuitError):
    """`invalid_grant`: a person must reconnect, perhaps.

    Attributes:
        perhaps_our_keys: The description blames token type or client id. That may withhold a verdict, never make one.
    """

    def __init__(self, facts: Facts = Facts(), *, perhaps_our_keys: bool = False) -> None:
        super().__init__("invalid_grant", facts)
        self.perhaps_our_keys = perhaps_our_keys


class ClientRejected(IntuitError):
    """`invalid_client`, `unauthorized_client`: our keys. Every connection keeps its state."""


class RequestRejected(IntuitError):
    """Any other well-formed refusal: our bug or a passing fault of Intuit's. Nothing was spent."""


class OutcomeUnknown(IntuitError):
    """The request was sent and no usable answer was read: the token may be spent, a new one may be lost.

    Attributes:
        retry_after: What a 503 asked for; None if it did not.
        salvaged: A refresh token that could be read whole from a broken 200; None otherwise.
    """

    def __init__(
        self,
        reason: str,
        facts: Facts = Facts(),
        *,
        retry_after: timedelta | None = None,
        salvaged: Secret | None = None,
    ) -> None:
        super().__init__(reason, facts)
        self.retry_after = retry_after
        self.salvaged = salvaged


class Unavailable(IntuitError):
    """Nothing was spent: no byte was handed to the socket, or Intuit said 429.

    Attributes:
        retry_after: What a 429 asked for; None if it did not.
    """

    def __init__(
        self,
        reason: str,
        facts: Facts = Facts(),
        *,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(reason, facts)
        self.retry_after = retry_after


class LeaseSpent(IntuitError):
    """Too little of the lease is left to send: nothing was sent, the connection goes back as it was."""

    def __init__(self) -> None:
        super().__init__("lease_spent")
