"""What chaos is made on: durable servers, the simulator, proxies before all of them, a fleet. Leaves nothing behind."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import redis

import intuit_simulator
import qbo_refresh
from intuit_simulator import fingerprint
from qbo_refresh import sealing
from qbo_refresh.configuration import use
from qbo_refresh.database import database
from tests.chaos.crew import Crew
from tests.chaos.plan import BEAT, LINES, SHORTENED, Plan
from tests.chaos.puts import Puts
from tests.conftest import migrate, settings_of, with_database
from tests.support import host_app
from tests.support.consents import REDIRECT
from tests.support.fleet import Fleet
from tests.support.proxy import FaultProxy
from worker import embedded
from worker.database import Database
from worker.store import apps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from tests.support.fleet import Connected


class Stage:
    """Everything that runs. The nemesis acts on it, the people live on it; a context manager that ends it all."""

    def __init__(self, plan: Plan) -> None:
        """Start servers, simulator and proxies, make the fleet; workers and beat are started by `start`."""
        self.plan = plan
        self.offset = time.time() - time.monotonic()
        self.names: dict[str, bytes] = {}
        """Fingerprint in the provider's journal → in our tables."""
        self._things = ExitStack()
        with ExitStack() as until_ready:
            until_ready.callback(self._things.close)
            self.servers = self._things.enter_context(embedded.start(durable=True))
            # The host's broker is another one: what has reached it is beyond our promises, and not ours to flush.
            self.host = self._things.enter_context(embedded.start(postgres=False))
            self.directory = self.servers.directory / "chaos"
            self.directory.mkdir(mode=0o700)
            self.simulator = self._things.enter_context(intuit_simulator.start(policy="grace"))
            self.url = self._make_database()
            self.lines = {
                name: self._things.enter_context(FaultProxy(target))
                for name, target in zip(
                    LINES,
                    (self.url, self.servers.redis_url, self.simulator.base_url, self.host.redis_url),
                    strict=True,
                )
            }
            keys = {"TOKEN_KEYS": f"k0:{sealing.new_key()}", "LOOKUP_KEY": sealing.new_key()}
            # Hosts are given the keys of a rotation before the workers are.
            self.future_keys = [
                f"k{number}:{sealing.new_key()}" for number in range(1, 1 + plan.counts().get("keys", 0))
            ]
            self.variables = self._variables(keys)
            self.db = Database(settings_of(self.variables | {"DATABASE_URL": self.url}).database())
            self._things.callback(self.db.close)
            settings = settings_of(self.variables | {"TOKEN_KEYS": ",".join([keys["TOKEN_KEYS"], *self.future_keys])})
            self.app_id = apps.ensure(self.db, environment="sandbox", client_id=self.simulator.client_id)
            self.fleet = Fleet(self.db, settings, self.simulator)
            self.connected: list[Connected] = self.fleet.connect(plan.connections)
            self.ids = {each.realm_id: each.id for each in self.connected}
            self.puts = Puts(self.servers.redis_url)
            self._things.callback(self.puts.close)
            self.crew = Crew(self.directory, self.variables, self.servers.watch)
            self._things.callback(self.crew.close)
            self._configure_host()
            until_ready.pop_all()

    def start(self) -> None:
        """Start workers, beat, and the host's worker."""
        self.crew.start_host({"HOST_BROKER": self.host.redis_url})
        for slot in (*range(self.plan.workers), BEAT):
            self.crew.start(slot)

    def learn(self, *realm_ids: str) -> None:
        """Note what the present grants' tokens are called in our tables; of all companies, or of these."""
        states = [self.simulator.state(each) for each in realm_ids] or list(self.simulator.states())
        for state in states:
            for token in (state.refresh_token, *state.superseded):
                name = fingerprint(token)
                if name not in self.names:
                    self.names[name] = self.fleet.fingerprint(token)

    def learn_newcomers(self, newcomers: Mapping[str, str]) -> None:
        """Note which connections these have become: external id → company."""
        for row in self.db.execute("SELECT external_id, connection_id FROM qbo.external_ids"):
            if row.external_id in newcomers:
                self.ids[newcomers[row.external_id]] = row.connection_id

    def host_variables(self) -> dict[str, str]:
        """Return the environment of a caller."""
        return {
            "QBO_DATABASE_URL": self.lines["postgres"].url,
            "QBO_WORKER_BROKER_URL": self.lines["valkey"].url,
            "QBO_CLIENT_KEYS": self.client_keys(),
        }

    def client_keys(self) -> str:
        """Return what a host may have of all the keys that there will be."""
        return sealing.client_keys(",".join([self.variables["TOKEN_KEYS"], *self.future_keys]))

    def received(self) -> list[bytes]:
        """Return what the host has had, in order."""
        with redis.Redis.from_url(self.host.redis_url) as client:
            return list(client.lrange(host_app.RECEIVED, 0, -1))

    def received_ids(self) -> set[int]:
        """Return the ids of the events that the host has had."""
        return {int(json.loads(each)["id"]) for each in self.received()}

    def keep(self) -> Path:
        """Copy what the processes have said to a place that outlives the run, and return that."""
        kept = Path(tempfile.mkdtemp(prefix="qbo-chaos-"))
        shutil.copytree(self.directory, kept, dirs_exist_ok=True)
        return kept

    def _make_database(self) -> str:
        with psycopg.connect(self.servers.database_url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE chaos")
        url = with_database(self.servers.database_url, "chaos")
        migrate(url)
        return url

    def _variables(self, keys: dict[str, str]) -> dict[str, str]:
        simulator, intuit = self.simulator, self.lines["intuit"].url
        return {
            "DATABASE_URL": self.lines["postgres"].url,
            "REDIS_URL": self.lines["valkey"].url,
            "EVENT_BROKER_URL": self.lines["host"].url,
            "EVENT_TASK": host_app.TASK,
            "EVENT_QUEUE": host_app.QUEUE,
            "RECONNECT_URL": "http://localhost:4711/reconnect/{external_id}",
            **{name: value.replace(simulator.base_url, intuit) for name, value in simulator.settings().items()},
            **keys,
            **{name: str(value) for name, value in SHORTENED.items()},
        }

    def _configure_host(self) -> None:
        qbo_refresh.configure(
            database_url=self.lines["postgres"].url,
            client_keys=self.client_keys(),
            broker_url=self.lines["valkey"].url,
            authorize_url=self.simulator.authorize_url,
            redirect_url=REDIRECT,
        )
        self._things.callback(use, None)
        self._things.callback(lambda: database().close())

    def new_secret(self) -> str:
        """Return a client secret that nobody has had."""
        return secrets.token_urlsafe(24)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._things.close()
