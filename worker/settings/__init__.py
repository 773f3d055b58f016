"""The settings of this process, from the environment: read, and demanded by those who need them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbo_refresh.errors import QboRefreshError
from worker.settings import env_file, wording
from worker.settings.apps import App
from worker.settings.errors import CREDENTIALS, EMBEDDED, KEYS, SettingsError, Unset
from worker.settings.urls import API_URLS, REVOKE_URL, TOKEN_URL
from worker.settings.variables import EXTERNAL_ID, Endpoint, EventTarget, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "API_URLS",
    "CREDENTIALS",
    "EMBEDDED",
    "EXTERNAL_ID",
    "KEYS",
    "REVOKE_URL",
    "TOKEN_URL",
    "App",
    "Endpoint",
    "EventTarget",
    "Settings",
    "SettingsError",
    "Unset",
    "demand",
    "demand_all",
    "load",
    "read",
]


def demand_all(config: Settings, *more: Callable[[], object]) -> None:
    """Demand what a worker needs, and more. Raises as `demand` does."""
    demand(config.database, config.redis, config.keyring, config.lookup, config.apps, config.endpoint, *more)


def demand(*reads: Callable[[], object]) -> None:
    """Call these methods of `Settings`, so that everything that is missing or wrong is said at once, a line each.

    Raises:
        SettingsError: Something is.
    """
    wrong = []
    for read_one in reads:
        try:
            read_one()
        except QboRefreshError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError("\n".join(dict.fromkeys(wrong)))


@functools.cache
def load() -> Settings:
    """Read the environment once.

    Raises:
        SettingsError: A variable has a value that cannot be; all such are named.
    """
    return read()


def read() -> Settings:
    """Read the environment anew, `.env` included. Raises as `load` does."""
    env_file.check()
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(wording.complaints(error, Settings.model_fields))) from None
