"""Checks of an installation, one after the other: what is right, what is wrong, and the mend.

Nothing is changed and nothing of a connection is sent anywhere: Intuit is asked with a made-up code. Three of the
checks go over the whole table once, a second or two for each million rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis
from sqlalchemy.exc import DBAPIError

from qbo_refresh.errors import QboRefreshError
from qbo_refresh.sealing import BadKeys
from worker import reaching
from worker.database import sqlstate
from worker.doctor import keys, servers, tables
from worker.doctor.patient import Check, Patient, Skipped, State, Wrong
from worker.settings import SettingsError, demand_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from worker.settings import Settings

_SEE = "see environment"


def examine(config: Settings, *, offline: bool = False) -> Iterator[Check]:
    """Yield the checks as they are made; a wrong one ends nothing.

    Args:
        config: This process's settings.
        offline: Leave Intuit alone.
    """
    patient = Patient(config, offline)
    try:
        for name, check in _CHECKS:
            yield _made(name, check, patient)
    finally:
        if patient.db is not None:
            patient.db.close()


def _made(name: str, check: Callable[[Patient], str], patient: Patient) -> Check:
    try:
        return Check(name, State.OK, check(patient))
    except Skipped as reason:
        return Check(name, State.SKIPPED, str(reason))
    except (SettingsError, BadKeys):
        # Said once, by the first check.
        return Check(name, State.SKIPPED, _SEE)
    except (Wrong, QboRefreshError) as error:
        return Check(name, State.WRONG, str(error))
    except DBAPIError as error:
        return Check(name, State.WRONG, f"PostgreSQL refuses this ({type(error.orig).__name__}, {sqlstate(error)}).")
    except redis.RedisError as error:
        return Check(name, State.WRONG, reaching.redis_trouble(error).sentence)


def _environment(patient: Patient) -> str:
    config = patient.config
    try:
        demand_all(config, config.event_target, config.flower_login)
    except SettingsError as error:
        raise Wrong(str(error)) from None
    return "every variable that is needed is set and well-formed"


_CHECKS: tuple[tuple[str, Callable[[Patient], str]], ...] = (
    ("environment", _environment),
    ("database", tables.database),
    ("tables", tables.migrated),
    ("privileges", tables.privileges),
    ("control", tables.frozen),
    ("same database", tables.identity),
    ("leases", tables.leases),
    ("waiting", tables.waiting),
    ("connections", tables.connections),
    ("redis", servers.redis),
    ("redis memory", servers.eviction),
    ("event broker", servers.events),
    ("token keys", keys.token_keys),
    ("escrow", keys.escrow),
    ("lookup key", keys.lookup_key),
    ("apps", keys.keyless),
    ("intuit", servers.intuit),
    ("clocks", servers.clocks),
    ("sentry", servers.sentry),
    ("heartbeat", servers.heartbeat),
)

__all__ = ["Check", "State", "examine"]
