"""What all examples share, and how one of them begins: with nothing left of the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.machine.intuit import Book
from tests.machine.stage import Config, Process, Stage

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    import redis

    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime
    from worker.settings import Settings

_START_ANEW = """
DELETE FROM qbo.authorizations; DELETE FROM qbo.revocations; DELETE FROM qbo.external_ids; DELETE FROM qbo.outbox;
DELETE FROM qbo.sync_holds; DELETE FROM qbo.candidates; DELETE FROM qbo.refresh_attempts; DELETE FROM qbo.connections;
DELETE FROM qbo.app_blocks;
UPDATE qbo.apps SET throttled_until = NULL, guard_tripped_at = NULL, guard_released_at = NULL, population_at = NULL;
UPDATE qbo.control SET frozen = false
"""


class Refused(logging.Handler):
    """Hears what PostgreSQL refused to be written: its triggers and checks see what ours should have seen before."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the lines about saves."""
        if "save_refused" in record.getMessage() or "save.refused" in record.getMessage():
            self.lines.append(record.getMessage())


@dataclass(frozen=True, slots=True)
class World:
    """What all examples share."""

    fleet: Fleet
    runtimes: tuple[Runtime, Runtime]
    settings: Settings
    consents: Consents
    valkey: redis.Redis
    lanes: tuple[ThreadPoolExecutor, ...]
    environment: dict[str, str]
    refused: Refused

    def start_anew(self, policy: str, **options: bool) -> Stage:
        """Forget everything."""
        self.refused.lines.clear()
        for statement in _START_ANEW.split(";"):
            self.fleet.db.execute(statement)
        self.valkey.flushall()
        self.fleet.simulator.reset()
        self.fleet.simulator.set_policy(policy, **options)
        config = Config((self.environment["TOKEN_KEYS"],), (self.environment["INTUIT_CLIENT_SECRET"],))
        self.fleet.keyring = config.keyring()
        processes = (Process(self.runtimes[0], config), Process(self.runtimes[1], config))
        escrow = self.runtimes[0].escrow
        stage = Stage(
            self.fleet,
            Book(self.fleet.simulator),
            self.settings,
            escrow,
            self.consents,
            processes,
            self.lanes,
            config,
            config,
        )
        stage.restart_host()
        return stage
