"""What the contract tests ask of a store and an escrow, the same for the real ones and the stand-ins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from intuit_simulator.policy import PolicyName
from qbo_refresh.sealing import Field, Place
from qbo_refresh.secret import Secret
from qbo_refresh.status import Status
from tests.explore import worker
from tests.explore.provider import Provider
from tests.explore.tables import Row
from tests.explore.world import World
from tests.support.attempts import Attempts
from worker.store import control

if TYPE_CHECKING:
    import redis

    from tests.support.fleet import Fleet
    from worker.escrow import RedisEscrow

LEASE = timedelta(seconds=60)


class Bench(Protocol):
    """A store and an escrow with connections in them, and the means to look at them."""

    one: Attempts
    other: Attempts

    def connect(self) -> int:
        """Make an active connection that is due now, and return its id."""

    def row(self, connection_id: int) -> Any:
        """Return the row; columns that both have."""

    def write(self, connection_id: int, **columns: Any) -> None:
        """Change a row by hand."""

    def now(self) -> Any:
        """Return the database's time."""

    def candidates(self, connection_id: int) -> list[tuple[str, int, bool]]:
        """Return source, base version and whether it was tried, oldest first."""

    def refuse_all(self, connection_id: int) -> list[bool]:
        """Note that all candidates were refused, and return which of these refusals are believed."""

    def holds(self, connection_id: int) -> set[str]:
        """Return the reasons of the holds."""

    def events(self, connection_id: int | None = None) -> list[str]:
        """Return the types of a connection's events, or of those of none."""

    def outcomes(self, connection_id: int) -> list[tuple[str, str | None, str | None]]:
        """Return outcome, reason and what withheld a verdict, oldest first."""

    def witness(self) -> None:
        """Let another connection have been refreshed just now."""

    def let_pass(self, time: timedelta) -> None:
        """Let time pass, at Redis too."""

    def fail_over(self) -> None:
        """Let the server's timeline be another one."""

    def recognise(self) -> None:
        """Let beat look which database this is."""


@dataclass
class RealBench:
    """PostgreSQL and Valkey."""

    fleet: Fleet
    one: Attempts
    other: Attempts
    valkey: redis.Redis

    def connect(self) -> int:
        """Make one."""
        connection_id = self.fleet.connect()[0].id
        self.fleet.update(connection_id, "known_fingerprint = refresh_token_fingerprint")
        return connection_id

    def row(self, connection_id: int) -> Any:
        """Read it."""
        return self.fleet.row(connection_id)

    def write(self, connection_id: int, **columns: Any) -> None:
        """Change it."""
        self.fleet.update(connection_id, ", ".join(f"{name} = %({name})s" for name in columns), **columns)

    def now(self) -> Any:
        """Ask for it."""
        return self.fleet.db.execute("SELECT now() AS now").one().now

    def candidates(self, connection_id: int) -> list[tuple[str, int, bool]]:
        """Read them."""
        rows = self.fleet.candidates(connection_id)
        return [(row.source, row.base_version, row.tried_at is not None) for row in rows]

    def refuse_all(self, connection_id: int) -> list[bool]:
        """Refuse them."""
        return [self.one.by.store.refuse(each.id) for each in self.fleet.candidates(connection_id)]

    def holds(self, connection_id: int) -> set[str]:
        """Read them."""
        return self.fleet.holds(connection_id)

    def events(self, connection_id: int | None = None) -> list[str]:
        """Read them."""
        return self.fleet.events(connection_id)

    def outcomes(self, connection_id: int) -> list[tuple[str, str | None, str | None]]:
        """Read the ledger."""
        return [(row.outcome, row.reason, row.withheld) for row in self.fleet.attempts(connection_id)]

    def witness(self) -> None:
        """Make one."""
        self.fleet.witness()

    def let_pass(self, time: timedelta) -> None:
        """Move every moment into the past."""
        self.fleet.let_pass(time)
        escrow: RedisEscrow = self.one.by.escrow  # type: ignore[assignment]  # this bench's is the real one
        escrow.flush()
        for key in self.valkey.scan_iter():
            left = int(self.valkey.pttl(key)) - int(time.total_seconds() * 1000)
            self.valkey.pexpire(key, max(left, 0))

    def fail_over(self) -> None:
        """What the control row remembers is the timeline before."""
        self.fleet.db.execute("UPDATE qbo.control SET timeline = timeline - 1")

    def recognise(self) -> None:
        """As beat does."""
        control.recognise(self.fleet.db, lease=LEASE)


class MemoryBench:
    """The stand-ins."""

    def __init__(self) -> None:
        self.world = World(Provider(PolicyName.STRICT))
        self.one = Attempts(worker.refresher(self.world))
        self.other = Attempts(worker.refresher(self.world))

    def connect(self) -> int:
        """Make one."""
        connection_id = len(self.world.tables.rows) + 1
        token = Secret(f"RT1-000-H0-made-up-for-a-test-{connection_id:010d}")
        blob = worker.KEYRING.seal(token, Place("sandbox", connection_id, 1, Field.REFRESH_TOKEN))
        name = worker.LOOKUP.fingerprint(token)
        self.world.commit_row(
            Row(
                id=connection_id,
                refresh_token=blob,
                refresh_token_fingerprint=name,
                known_fingerprint=name,
                next_refresh_at=self.world.now,
            )
        )
        return connection_id

    def row(self, connection_id: int) -> Any:
        """Read it."""
        return self.world.tables.rows[connection_id]

    def write(self, connection_id: int, **columns: Any) -> None:
        """Change it."""
        if "status" in columns:
            columns["status"] = Status(columns["status"])
        self.world.commit_row(replace(self.world.tables.rows[connection_id], **columns))

    def now(self) -> Any:
        """Read it."""
        return self.world.now

    def candidates(self, connection_id: int) -> list[tuple[str, int, bool]]:
        """Read them."""
        kept = [each for each in self.world.tables.candidates if each.connection_id == connection_id]
        return [(each.source, each.base_version, each.tried_at is not None) for each in kept]

    def refuse_all(self, connection_id: int) -> list[bool]:
        """Refuse them."""
        mine = [each.id for each in self.world.tables.candidates if each.connection_id == connection_id]
        return [self.one.by.store.refuse(id_) for id_ in mine]

    def holds(self, connection_id: int) -> set[str]:
        """Read them."""
        return {str(hold) for held, hold in self.world.tables.holds if held == connection_id}

    def events(self, connection_id: int | None = None) -> list[str]:
        """Read them."""
        return [str(event) for told, event in self.world.tables.events if told == connection_id]

    def outcomes(self, connection_id: int) -> list[tuple[str, str | None, str | None]]:
        """Read the ledger."""
        written = [each for each in self.world.tables.ledger.values() if each.connection_id == connection_id]
        return [(str(each.outcome), each.reason, each.withheld) for each in written]

    def witness(self) -> None:
        """Make one, or let the one that is there have been refreshed just now."""
        if self.world.witness_id is None:
            self.world.witness_id = self.connect()
        self.world.refresh_witness()

    def let_pass(self, time: timedelta) -> None:
        """Move the clock, and nothing else."""
        self.world.seconds += time.total_seconds()

    def fail_over(self) -> None:
        """Take over without a loss."""
        self.world.fail_over(0)

    def recognise(self) -> None:
        """As beat does."""
        self.world.recognise()
