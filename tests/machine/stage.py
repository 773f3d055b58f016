"""The processes of one deployment: their keys and client secrets, and use cases that may stop on the way."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from qbo_refresh import configuration, sealing
from qbo_refresh.sealing import Keyring
from qbo_refresh.secret import Secret
from tests.machine.flights import Flight
from tests.machine.intuit import Watched
from tests.support.seams import with_seam
from worker import clock
from worker.attempt import Keys
from worker.ending import Ender
from worker.exchange import Exchanger
from worker.refresh import ClientSecret, Refresher
from worker.store import dispatch
from worker.store.grants import PostgresGrants
from worker.store.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine.intuit import Book
    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.escrow import RedisEscrow
    from worker.runtime import Runtime
    from worker.settings import Settings

LANES = 3
Stop = tuple[str, str, str]
"""Port, method, and `before` or `after`."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a process is started with.

    Attributes:
        keys: As `TOKEN_KEYS` has them, the first seals.
        secrets: The client's, the one in use first.
    """

    keys: tuple[str, ...]
    secrets: tuple[str, ...]

    def keyring(self) -> Keyring:
        """Return the keys."""
        return Keyring.from_text(",".join(self.keys))

    def with_new_key(self) -> Config:
        """Return it with another key that seals."""
        return replace(self, keys=(f"k{secrets.token_hex(4)}:{sealing.new_key()}", *self.keys))


@dataclass(slots=True)
class Process:
    """One worker, and what it was started with."""

    runtime: Runtime
    config: Config

    def refresher(self) -> Refresher:
        """Return its use case, as `worker.runtime` would put it together."""
        here = self.runtime
        (app_id,) = here.refresher.secrets
        mine = tuple(
            ClientSecret(name, Secret(value), here.refresher.lookup.secret_hash(Secret(value)))
            for name, value in zip(("current", "previous"), self.config.secrets, strict=False)
        )
        pace = here.refresher.pace
        store = PostgresStore(
            here.db, keys=self._keys(app_id, mine), pace=pace, worker=here.refresher.worker, give_up=lambda: False
        )
        keyring = self.config.keyring()
        return replace(here.refresher, store=store, keyring=keyring, secrets={app_id: mine}, jitter=lambda: 0.0)

    def grants(self, by: Refresher) -> PostgresGrants:
        """Return the store of its exchanges and ends."""
        ((app_id, mine),) = by.secrets.items()
        return PostgresGrants(
            self.runtime.db, keys=self._keys(app_id, mine), pace=by.pace, worker=by.worker, give_up=lambda: False
        )

    def restart(self, config: Config) -> None:
        """Start it anew; what is in flight has ended before."""
        self.config = config
        dispatch.let_readable_go(self.runtime.db, config.keyring().key_ids)

    @staticmethod
    def _keys(app_id: int, mine: tuple[ClientSecret, ...]) -> tuple[Keys, ...]:
        return (Keys(app_id, tuple(each.secret_hash for each in mine)),)


@dataclass
class Stage:
    """One example's processes and flights."""

    fleet: Fleet
    book: Book
    settings: Settings
    escrow: RedisEscrow
    consents: Consents
    workers: tuple[Process, Process]
    lanes: tuple[ThreadPoolExecutor, ...]
    config: Config
    host: Config
    flights: dict[int, Flight] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        """Whether one more may stand still."""
        return len(self.flights) < LANES

    def fly(
        self,
        what: str,
        number: int | None,
        by: Process,
        work: Callable[[Refresher, Exchanger, Ender], object],
        stop: Stop | None,
    ) -> Flight:
        """Begin a use case of a worker, and return when it is over or stands at its stop."""
        flight = self._flight(what, number, by)
        port = None if stop is None or stop[0] != "intuit" else stop[1:]
        plain = by.refresher()
        watched: Any = Watched(plain.intuit, self.book, flight, port)
        began = self.book.passed

        def boottime() -> float:
            return clock.boottime() + (self.book.passed - began).total_seconds()

        refresher, store = replace(plain, intuit=watched, boottime=boottime), by.grants(plain)
        exchanger, ender = Exchanger(store, refresher), Ender(store, refresher)
        if stop is not None and port is None:
            seam: dict[str, Any] = {stop[2]: flight.stand}
            if stop[0] == "store" and what == "exchange":
                exchanger = with_seam(exchanger, "store", stop[1], **seam)
            elif stop[0] == "store" and what == "disconnect":
                ender = with_seam(ender, "store", stop[1], **seam)
            else:
                refresher = with_seam(refresher, stop[0], stop[1], **seam)  # type: ignore[arg-type]  # a port's name
                exchanger, ender = replace(exchanger, refresher=refresher), replace(ender, refresher=refresher)
        self._start(flight, lambda: work(refresher, exchanger, ender), stops=stop is not None)
        return flight

    def command(self, what: str, number: int | None, work: Callable[[Flight], object], *, stops: bool) -> Flight:
        """Begin a command, and return when it is over or stands still."""
        flight = self._flight(what, number, None)
        self._start(flight, lambda: work(flight), stops=stops)
        return flight

    def settle(self) -> list[Flight]:
        """Take the flights away that are over, and return them."""
        over = {lane: flight for lane, flight in self.flights.items() if flight.is_over}
        for lane in over:
            del self.flights[lane]
        return list(over.values())

    def is_late(self, flight: Flight) -> bool:
        """Tell whether its lease is over."""
        return self.book.passed - flight.began > self.workers[0].runtime.refresher.pace.lease

    def restart_host(self) -> None:
        """Start the host's processes with what is to be."""
        self.host = self.config
        keys = Keyring.from_client_text(sealing.client_keys(",".join(self.config.keys)))
        self.consents.config = replace(self.consents.config, keyring=keys)
        configuration.use(self.consents.config)

    def _flight(self, what: str, number: int | None, by: Process | None) -> Flight:
        first = (by.config if by else self.config).keys[0]
        return Flight(what, number, by=by, began=self.book.passed, first_key=first)

    def _start(self, flight: Flight, work: Callable[[], object], *, stops: bool) -> None:
        lane = min(set(range(LANES)) - set(self.flights))
        self.flights[lane] = flight
        flight.start(self.lanes[lane], work, stops=stops)


def lanes() -> tuple[ThreadPoolExecutor, ...]:
    """Return threads that stay, with their connections to PostgreSQL."""
    return tuple(ThreadPoolExecutor(1) for _ in range(LANES))
