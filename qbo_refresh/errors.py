"""The errors that this project raises on purpose. Their texts and attributes hold no secret, token or realm id.

Each can be pickled, and made again from its `args` as Celery's JSON results do it: what they are built from is plain.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class QboRefreshError(Exception):
    """Base class. Its text is one sentence that names the thing and the mend, and never holds a secret."""


class ConfigurationError(QboRefreshError):
    """A setting of a host's process is missing or malformed, or its role may not do what it must."""


class UnknownConnection(QboRefreshError):
    """No connection has this name, or several have."""


class SyncPaused(QboRefreshError):
    """The connection's syncs are paused; they come back by themselves, or after a person has acted.

    Attributes:
        connection_id: Our id of the connection.
        reasons: Why, in the words of `status.Hold`; at least one.
    """

    def __init__(self, connection_id: int, reasons: Sequence[str]) -> None:
        super().__init__(connection_id, [str(reason) for reason in reasons])
        self.connection_id = connection_id
        self.reasons = tuple(str(reason) for reason in reasons)

    def __str__(self) -> str:
        return f"The syncs of connection {self.connection_id} are paused: {', '.join(self.reasons)}."


class TemporarilyUnavailable(QboRefreshError):
    """There is no valid access token, or no connection yet, and there may be later without anybody doing anything.

    Attributes:
        reason: A word: `throttled`, `frozen`, `broker_unavailable`, …; docs/integrating.md lists them.
        retry_after: When asking again may help, at the earliest.
        connection_id: Our id of the connection; None if it could not be found out.
    """

    def __init__(self, reason: str, retry_after_s: float, connection_id: int | None = None) -> None:
        super().__init__(reason, retry_after_s, connection_id)
        self.reason = reason
        self.retry_after = timedelta(seconds=retry_after_s)
        self.connection_id = connection_id

    def __str__(self) -> str:
        whose = "The connection" if self.connection_id is None else f"Connection {self.connection_id}"
        after = self.retry_after.total_seconds()
        return f"{whose} is not available now ({self.reason}): ask again in {after:.0f} s."


class TokenRejected(QboRefreshError):
    """For a host to raise: QuickBooks answered 401 to the access token in use. See `with_access_token`."""


class WrongRealm(QboRefreshError):
    """Another QuickBooks company was chosen than the one that the connection is for. Nothing was stored.

    Attributes:
        expected: The label of the connection, or another name of it that is no realm id.
        got: The same of the company that was chosen; None if no connection is known for it.
    """

    def __init__(self, expected: str, got: str | None = None) -> None:
        super().__init__(expected, got)
        self.expected = expected
        self.got = got

    def __str__(self) -> str:
        chosen = "a company that is not connected here" if self.got is None else repr(self.got)
        return f"The company chosen at QuickBooks is {chosen}, not {self.expected!r}: choose that one."


class InvalidState(QboRefreshError):
    """The state of a callback is not one that may be used now: forged, expired, used, or of another browser session.

    Attributes:
        reason: A word for your logs: `malformed`, `unknown_key`, `signature`, `unknown`, `session`, `expired`, `used`.
            It is not in the text, which may be shown to whoever sent the state.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return "This link to connect is not valid, or not any more: start again from the application."


class ConsentFailed(QboRefreshError):
    """No connection came of a consent, and nothing was stored: the person starts again from the link.

    Attributes:
        reason: A word: `answer_lost`, `expired`, `disconnected`, `unreadable`, `deleted`, `wrong_company`,
            `company_unproven`, or Intuit's code (`invalid_grant` is a code that is old or used).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"QuickBooks was not connected ({self.reason}): start again from the link."
