"""The Intuit apps of INTUIT_APPS."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbo_refresh.secret import Secret
from worker.settings.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class App:
    """One Intuit app: an environment, a client id, and its secrets, the one in use first."""

    environment: Literal["production", "sandbox"]
    client_id: str
    secrets: tuple[Secret, ...]


def parse(text: str) -> Iterable[App]:
    """Yield the apps that a JSON list has.

    Raises:
        SettingsError: It is no such list.
    """
    mend = (
        'INTUIT_APPS must be a JSON list of {"environment": "production" or "sandbox", "client_id": …,'
        ' "client_secret": …, "client_secret_previous": … (optional)}.'
    )
    try:
        entries = json.loads(text)
        for entry in entries:
            secrets = [entry["client_secret"], entry.get("client_secret_previous")]
            if entry["environment"] not in {"production", "sandbox"} or not isinstance(entry["client_id"], str):
                raise SettingsError(mend)
            yield App(entry["environment"], entry["client_id"], tuple(Secret(s) for s in secrets if s))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SettingsError(mend) from None
