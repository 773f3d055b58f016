"""Puts one process together from its settings: the only place that knows which adapter serves which use case."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from worker import schema, settings
from worker.attempt import Keys
from worker.database import Database
from worker.ending import Ender
from worker.escrow import RedisEscrow
from worker.exchange import Exchanger
from worker.intuit import IntuitEndpoint
from worker.refresh import ClientSecret, Refresher
from worker.store import apps, control
from worker.store.grants import PostgresGrants
from worker.store.postgres import PostgresStore

if TYPE_CHECKING:
    from qbo_refresh.sealing import Lookup
    from worker.settings import App, Settings

# After a POST that has just begun. What is not saved by then is in the escrow; with the default lease a stopping worker
# has 22 s, and 25 until somebody loses patience.
SAVE_WITHIN = timedelta(seconds=2)


@dataclass(slots=True)
class Stop:
    """Whether this process is being stopped, and since when.

    Attributes:
        within: How long what is in flight may take from then on.
    """

    db: Database
    within: timedelta
    since: float | None = None

    def begin(self) -> None:
        """Claim nothing from now on; finish what is in flight."""
        self.since = self.since or time.monotonic()
        self.db.stopping.set()

    def time_is_up(self) -> bool:
        """Tell whether a save that PostgreSQL does not take must be left to the escrow."""
        return self.since is not None and time.monotonic() - self.since > self.within.total_seconds()


@dataclass(frozen=True, slots=True)
class Runtime:
    """One process's adapters and use cases."""

    settings: Settings
    db: Database
    escrow: RedisEscrow
    stop: Stop
    keys: tuple[Keys, ...]
    refresher: Refresher
    exchanger: Exchanger
    ender: Ender

    def close(self) -> None:
        """Do what the escrow has put off, and close the connections to Redis and PostgreSQL."""
        self.escrow.close()
        self.db.close()


def secrets_of(db: Database, lookup: Lookup, configured: tuple[App, ...]) -> dict[int, tuple[ClientSecret, ...]]:
    """Return app id → its client secrets, the one in use first. Apps that are new are made."""
    return {
        apps.ensure(db, environment=app.environment, client_id=app.client_id): tuple(
            ClientSecret(name, secret, lookup.secret_hash(secret))
            for name, secret in zip(("current", "previous"), app.secrets, strict=False)
        )
        for app in configured
    }


def _statement_s(config: Settings) -> float:
    # 20 s by default: long enough for any statement of ours, and not half of the lease that a claim takes.
    return max(2.0, config.lease_seconds / 3)


def build(config: Settings) -> Runtime:
    """Put a process together.

    Raises:
        SettingsError, BadKeys: Something is missing or malformed.
        DatabaseUnavailable: PostgreSQL cannot be reached.
        WrongLookupKey: LOOKUP_KEY is not the one that the database was made with.
        NotMigrated: Its tables are missing or older than this code.
    """
    settings.demand_all(config)
    endpoint, keyring, lookup, configured = config.endpoint(), config.keyring(), config.lookup(), config.apps()
    config.event_target()  # said at the start, and not by the first event
    escrow = RedisEscrow(config.redis())
    db = Database(config.database(), schema=config.database_schema, statement_s=_statement_s(config))
    stop = Stop(db, config.pace.deadline + SAVE_WITHIN)
    schema.check(db, config)
    control.check_lookup(db, lookup)
    control.recognise(db, lease=config.pace.lease)
    secrets = secrets_of(db, lookup, configured)
    keys = tuple(Keys(app_id, tuple(s.secret_hash for s in mine)) for app_id, mine in secrets.items())
    name = f"{socket.gethostname()}:{os.getpid()}"  # in the ledger
    refresher = Refresher(
        store=PostgresStore(db, keys=keys, pace=config.pace, worker=name, give_up=stop.time_is_up),
        escrow=escrow,
        intuit=IntuitEndpoint(endpoint),
        keyring=keyring,
        lookup=lookup,
        pace=config.pace,
        secrets=secrets,
        worker=name,
        may_claim=lambda: not db.is_struggling and stop.since is None,
    )
    grants = PostgresGrants(db, keys=keys, pace=config.pace, worker=name, give_up=stop.time_is_up)
    return Runtime(config, db, escrow, stop, keys, refresher, Exchanger(grants, refresher), Ender(grants, refresher))


_lock = threading.Lock()
_current: Runtime | None = None


def current() -> Runtime:
    """Return this process's runtime, put together on first use; a forked child makes its own. Raises as `build`."""
    global _current  # noqa: PLW0603  # one per process, by design
    if _current is None:
        with _lock:
            if _current is None:
                _current = build(settings.load())
    return _current


def _forget() -> None:
    # Sockets and threads do not survive a fork; the parent keeps its own.
    global _current, _lock  # as above
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
