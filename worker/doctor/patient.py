"""What a check is, and what the checks have learned so far."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from worker.database import Database
    from worker.settings import Settings


class State(StrEnum):
    """What a check came to."""

    OK = "ok"
    WRONG = "wrong"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; a wrong one's text ends with the mend."""

    name: str
    state: State
    text: str


class Wrong(Exception):
    """What a check found wrong, and the mend."""


class Skipped(Exception):
    """Why a check could not be made."""


@dataclass(slots=True)
class Patient:
    """What the checks have learned so far."""

    config: Settings
    offline: bool
    db: Database | None = None
    pooled: bool = False
    migrated: bool = False
    intuits_time: tuple[datetime, datetime] | None = None

    def database(self, *, migrated: bool = True) -> Database:
        """Return the database; raise Skipped if it, or its tables unless `migrated` is False, are not there."""
        if self.db is None:
            raise Skipped("the database cannot be reached")
        if migrated and not self.migrated:
            raise Skipped("the tables are missing")
        return self.db
