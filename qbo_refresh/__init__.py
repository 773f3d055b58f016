"""What a host's processes import: access tokens, paused syncs, reconnecting.

Importing it creates no Celery app of ours. Its names are loaded when they are first used; docs/integrating.md tells
what they do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qbo_refresh.authorizing import Connected, authorize_url, complete
    from qbo_refresh.configuration import configure
    from qbo_refresh.errors import (
        ConfigurationError,
        ConsentFailed,
        InvalidState,
        QboRefreshError,
        SyncPaused,
        TemporarilyUnavailable,
        TokenRejected,
        UnknownConnection,
        WrongRealm,
    )

__all__ = [
    "ConfigurationError",
    "Connected",
    "ConsentFailed",
    "InvalidState",
    "QboRefreshError",
    "SyncPaused",
    "TemporarilyUnavailable",
    "TokenRejected",
    "UnknownConnection",
    "WrongRealm",
    "authorize_url",
    "complete",
    "configure",
]

_HOME = {name: "errors" for name in __all__ if name[0].isupper()}
_HOME |= {"configure": "configuration"} | dict.fromkeys(("Connected", "authorize_url", "complete"), "authorizing")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return found
