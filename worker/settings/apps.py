"""The Intuit apps of INTUIT_APPS."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from qbo_refresh.secret import Secret
from worker.settings.errors import SettingsError


@dataclass(frozen=True, slots=True)
class App:
    """One Intuit app: an environment, a client id, and its secrets, the one in use first."""

    environment: Literal["production", "sandbox"]
    client_id: str
    secrets: tuple[Secret, ...]


def copied(name: str, text: str) -> str:
    """Return a client id or a secret as it is.

    Raises:
        SettingsError: More was copied than it.
    """
    if text.isprintable() and text == text.strip():
        return text
    raise SettingsError(
        f"{name} has spaces around it, or a line break in it: copy it again from your app's page at"
        " developer.intuit.com."
    )


def parse(text: str) -> tuple[App, ...]:
    """Return the apps that a JSON list has.

    Raises:
        SettingsError: It is no such list, or has none.
    """
    mend = (
        'INTUIT_APPS is not a JSON list of apps: write [{"environment": "production" or "sandbox", "client_id": "…",'
        ' "client_secret": "…", "client_secret_previous": "…" (optional)}, …].'
    )
    try:
        apps = tuple(_app(entry) for entry in json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SettingsError(mend) from None
    if not apps:
        raise SettingsError(mend)
    return apps


def _app(entry: Any) -> App:
    if entry["environment"] not in {"production", "sandbox"} or not (entry["client_id"] and entry["client_secret"]):
        raise ValueError
    previous = entry.get("client_secret_previous")
    secrets = [entry["client_secret"], *([previous] if previous else [])]
    client_id, *secrets = (copied("INTUIT_APPS (an id or a secret)", each) for each in (entry["client_id"], *secrets))
    return App(entry["environment"], client_id, tuple(map(Secret, secrets)))
