"""What a host's processes import: access tokens, paused syncs, reconnecting.

Importing it creates no Celery app of ours. Its names are loaded when they are first used; docs/integrating.md tells
what they do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qbo_refresh.access import access_token, ensure_syncable, events, reject, with_access_token
    from qbo_refresh.authorizing import Connected, authorize_url, complete
    from qbo_refresh.configuration import configure
    from qbo_refresh.ending import disconnect, disconnect_hint
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
    from qbo_refresh.outbox import OutboxEvent
    from qbo_refresh.sync_task import SyncTask
    from qbo_refresh.tokens import AccessToken

# Where each name is at home.
_HOMES = {
    "access": ("access_token", "ensure_syncable", "events", "reject", "with_access_token"),
    "authorizing": ("Connected", "authorize_url", "complete"),
    "configuration": ("configure",),
    "ending": ("disconnect", "disconnect_hint"),
    "errors": (
        "ConfigurationError",
        "ConsentFailed",
        "InvalidState",
        "QboRefreshError",
        "SyncPaused",
        "TemporarilyUnavailable",
        "TokenRejected",
        "UnknownConnection",
        "WrongRealm",
    ),
    "outbox": ("OutboxEvent",),
    "sync_task": ("SyncTask",),
    "tokens": ("AccessToken",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AccessToken",
    "ConfigurationError",
    "Connected",
    "ConsentFailed",
    "InvalidState",
    "OutboxEvent",
    "QboRefreshError",
    "SyncPaused",
    "SyncTask",
    "TemporarilyUnavailable",
    "TokenRejected",
    "UnknownConnection",
    "WrongRealm",
    "access_token",
    "authorize_url",
    "complete",
    "configure",
    "disconnect",
    "disconnect_hint",
    "ensure_syncable",
    "events",
    "reject",
    "with_access_token",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    return found
