"""Which client secrets this process's settings hold, by the apps that the rows belong to. Makes no app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.attempt import Keys
from worker.settings import Unset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.settings import Settings
    from worker.store.totals import AppState


def secrets(apps: Iterable[AppState], config: Settings) -> tuple[Keys, ...] | None:
    """Return the hashes of each app's secrets, the one in use first; None if the settings have none.

    Raises:
        SettingsError, BadKeys: They are malformed: nobody should take that for none.
    """
    try:
        lookup, configured = config.lookup(), config.apps()
    except Unset:
        return None
    ids = {(app.environment, app.client_id): app.id for app in apps}
    return tuple(
        Keys(ids[app.environment, app.client_id], tuple(lookup.secret_hash(secret) for secret in app.secrets))
        for app in configured
        if (app.environment, app.client_id) in ids
    )
