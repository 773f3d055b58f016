"""What the story is played on: servers out of wheels, the simulator, the worker, and the host beside it."""

from __future__ import annotations

import os
import secrets
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
import requests
from celery import Celery

import intuit_simulator
from qbo_refresh import sealing
from qbo_refresh.errors import QboRefreshError
from worker import embedded
from worker.embedded.children import Children
from worker.embedded.processes import free_port
from worker.queues import ALL

if TYPE_CHECKING:
    from types import TracebackType

# What takes a quarter of an hour, a minute and an hour at other times. Everything else runs as it does for users.
SHORTENED = {"CONFIRM_AFTER_SECONDS": "2", "SWEEP_SECONDS": "1", "SYNC_EVERY_SECONDS": "1"}
_EXAMPLES = Path(__file__).resolve().parents[1]
_READY_WITHIN_S = 40.0
_LOOK_EVERY_S = 0.1


class NotPlayable(QboRefreshError):
    """The story cannot be played here; the text says why."""


class Stage:
    """Everything that runs during the story. A context manager that leaves nothing behind."""

    def __init__(self) -> None:
        """Start the servers, make the tables, the roles and the keys, and start all processes.

        Raises:
            QboRefreshError: That is not possible here.
        """
        self._things = ExitStack()
        with ExitStack() as until_ready:
            until_ready.callback(self._things.close)
            self._servers = self._things.enter_context(embedded.start())
            clients = {"example-app": [secrets.token_urlsafe(24)]}
            try:
                self.simulator = self._things.enter_context(intuit_simulator.start(clients=clients))
            except (RuntimeError, OSError) as error:
                raise NotPlayable(f"The simulator did not start: {error}.") from error
            self.web = f"http://127.0.0.1:{free_port()}"
            self.worker_settings = self._make_worker_settings()
            worker = self._children("worker", self.worker_settings)
            worker.run("migrate")
            worker.run("roles", "--apply")
            self.host_settings = self._make_host_settings(client_keys=worker.run("keys", "client"))
            self.host = self._children("host", self.host_settings)
            self._start(worker)
            self._wait_until_ready(worker)
            until_ready.pop_all()

    @property
    def host_logs(self) -> Path:
        """Where the output of the host's processes is."""
        return self.host.logs

    def customers(self) -> dict[str, dict[str, Any]]:
        """Return what the host's page knows of each customer, by id."""
        answer = requests.get(f"{self.web}/customers.json", timeout=10)
        answer.raise_for_status()
        return {customer["id"]: customer for customer in answer.json()}

    def _make_worker_settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self._servers.database_url,
            "REDIS_URL": self._servers.redis_url,
            "TOKEN_KEYS": f"example:{sealing.new_key()}",
            "LOOKUP_KEY": sealing.new_key(),
            **self.simulator.settings(),
            "INTUIT_REDIRECT_URL": f"{self.web}/quickbooks/callback",
            "RECONNECT_URL": f"{self.web}/quickbooks/connect/{{external_id}}",
            "EVENT_TASK": "host_app.on_quickbooks_event",
            "EVENT_QUEUE": "host",
            **{name: value for name, value in SHORTENED.items() if name != "SYNC_EVERY_SECONDS"},
        }

    def _make_host_settings(self, client_keys: str) -> dict[str, str]:
        """Return the host's environment: a role that reads no refresh token, keys that open none, no client secret."""
        password = secrets.token_urlsafe(24)
        with psycopg.connect(self._servers.database_url, autocommit=True) as db:
            db.execute(psycopg.sql.SQL("ALTER ROLE qbo_client LOGIN PASSWORD {}").format(password))
        place = self._servers.database_url.rpartition("@")[2]
        return {
            "QBO_DATABASE_URL": f"postgresql://qbo_client:{password}@{place}",
            "CLIENT_KEYS": client_keys.strip().removeprefix("CLIENT_KEYS="),
            "BROKER_URL": self._servers.redis_url,
            "INTUIT_AUTHORIZE_URL": self.simulator.authorize_url,
            "INTUIT_REDIRECT_URL": f"{self.web}/quickbooks/callback",
            "QUICKBOOKS_API_URL": f"{self.simulator.api_url}/v3/company",
            "SYNC_EVERY_SECONDS": SHORTENED["SYNC_EVERY_SECONDS"],
            "HOST_DATABASE": str(self._servers.directory / "host.sqlite"),
            "BEAT_FILE": str(self._servers.directory / "host-beat"),
            "WEB_PORT": self.web.rpartition(":")[2],
            "PYTHONPATH": os.pathsep.join([str(_EXAMPLES), str(_EXAMPLES.parent)]),
        }

    def _children(self, name: str, settings: dict[str, str]) -> Children:
        directory = self._servers.directory / name
        directory.mkdir(mode=0o700)
        children = Children(directory, settings, self._servers.watch)
        self._things.callback(children.end)
        return children

    def _start(self, worker: Children) -> None:
        """Start the worker as its Procfile has it, and the host as it always was: prefork, one queue, a beat, pages."""
        pool = ("-P", "threads", "-c", "10", "-E", "-Q", ",".join(ALL), "-n", "worker@%h")
        worker.celery("worker", "worker", *pool, "-l", "INFO")
        worker.celery("beat", "beat", "-l", "INFO")
        self.host.start("web", "host_app.web")
        host = ("celery", "-A", "host_app.app")
        self.host.start("worker", *host, "worker", "-P", "prefork", "-c", "2", "-E", "-Q", "host", "-n", "host@%h")
        self.host.start("beat", *host, "beat")

    def _wait_until_ready(self, worker: Children) -> None:
        control = Celery("example", broker=self._servers.redis_url).control
        give_up = time.monotonic() + _READY_WITHIN_S
        while len(control.ping(timeout=0.5) or ()) < 2 or not self._has_pages():  # noqa: PLR2004  # one of each
            ended = [*worker.ended(), *self.host.ended()]
            if ended or time.monotonic() > give_up:
                sys.stderr.writelines(file.read_text() for logs in (worker, self.host) for file in logs.logs.iterdir())
                raise NotPlayable(f"The processes did not start ({', '.join(ended) or 'in time'}); their logs: above.")
            time.sleep(_LOOK_EVERY_S)

    def _has_pages(self) -> bool:
        try:
            return bool(self.customers())
        except requests.RequestException:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._things.close()
