"""Fixtures on real servers: one PostgreSQL, one Valkey and one simulator for each process of pytest.

The tables are made once by Alembic and emptied before each test that asks for `database_url`; a test that changes the
database itself asks for `own_database_url`, a copy that is dropped afterwards. `environment` is what a process of the
worker would be started with.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import hypothesis
import psycopg
import pytest
import redis

import intuit_simulator
from alembic import command
from qbo_refresh import sealing
from tests.support import nursery, roles
from tests.support.consents import Consents
from tests.support.fleet import Fleet
from worker import embedded, runtime, schema
from worker import settings as worker_settings
from worker.cli import main
from worker.database import Database
from worker.settings import Settings
from worker.store import apps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from intuit_simulator import StartedSimulator
    from tests.support.commands import Run
    from worker.embedded import Servers
    from worker.refresh import Refresher
    from worker.runtime import Runtime

# On a noisy machine an example may take its time; and a run says the same as the one before.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
# FULL=1 looks longer, and elsewhere each time.
hypothesis.settings.register_profile("full", deadline=None, max_examples=5000, print_blob=True)
hypothesis.settings.load_profile("full" if os.environ.get("FULL") else "tests")

_TABLES = [
    "revocations",
    "authorizations",
    "external_ids",
    "outbox",
    "missed_runs",
    "sync_holds",
    "candidates",
    "refresh_attempts",
    "connections",
    "app_blocks",
    "unreadable_keys",
]
_TABLES += ["apps", "control", "event_delivery"]
# For the few rows of a test ten times as fast as TRUNCATE.
_EMPTY = ";".join(
    ["SET search_path TO qbo", *(f"DELETE FROM {table}" for table in _TABLES), "INSERT INTO control DEFAULT VALUES"]  # noqa: S608  # constants
).encode()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mix tests for two cores, where several processes run them: each takes a part in a row, and then others' ends.

    In the order of their names those that compute come first, and those that wait for processes leave the cores idle at
    the end. Here what takes longest, which has a timeout of its own, what waits and what computes take turns.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    limits = {item: limit.args[0] for item in items if (limit := item.get_closest_marker("timeout"))}
    longest = sorted(limits, key=limits.__getitem__, reverse=True)
    waiting = [item for item in items if item not in limits and item.path.parent.name == "system"]
    computing = [item for item in items if item not in limits and item.path.parent.name != "system"]
    turns: dict[pytest.Item, float] = {}
    for kind in (longest, waiting, computing):
        first: dict[Path, float] = {}  # a file's tests stay together, with what they share
        for n, item in enumerate(kind):
            turns[item] = first.setdefault(item.path, n / len(kind))
    items.sort(key=turns.__getitem__)


def with_database(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def migrate(url: str, *, schema_name: str = "qbo") -> None:
    """Run the migrations as `qbo-refresh migrate` does; Alembic's script reads the process's environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBO_DATABASE_URL", url)
        patch.setenv("QBO_DATABASE_SCHEMA", schema_name)
        worker_settings.load.cache_clear()
        try:
            command.upgrade(schema.alembic_config(), "head")
        finally:
            worker_settings.load.cache_clear()


def pytest_sessionfinish() -> None:
    """End what makes the processes of tests."""
    nursery.close()


@pytest.fixture(scope="session")
def session_servers() -> Iterator[Servers]:
    """Give this process's own PostgreSQL and Valkey, thrown away at its end."""
    with embedded.start(valkey_users=roles.valkey_users()) as running:
        yield running


@pytest.fixture(scope="session")
def _databases(session_servers: Servers) -> tuple[str, str]:
    """Give the URLs of a migrated template that nobody connects to, and of the database that tests share."""
    template = with_database(session_servers.database_url, "template_qbo")
    shared = with_database(session_servers.database_url, "shared")
    with psycopg.connect(session_servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_qbo")
        migrate(template)
        roles.make(template)
        connection.execute("CREATE DATABASE shared TEMPLATE template_qbo")
    return template, shared


@pytest.fixture
def database_url(_databases: tuple[str, str], session_servers: Servers) -> str:
    """Give a migrated database without rows. What another test left connected to it is cut off first."""
    shared = _databases[1]
    session_servers.start_postgres()  # nothing, unless a test that had stopped it has failed
    with psycopg.connect(shared, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(_EMPTY)
    return shared


@pytest.fixture
def own_database_url(_databases: tuple[str, str], session_servers: Servers) -> Iterator[str]:
    """Give a migrated database that the test may change as it likes."""
    with psycopg.connect(session_servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE own TEMPLATE template_qbo")
        yield with_database(session_servers.database_url, "own")
        connection.execute("DROP DATABASE own WITH (FORCE)")


@pytest.fixture
def redis_url(session_servers: Servers) -> str:
    """Give an empty Valkey."""
    with redis.Redis.from_url(session_servers.redis_url) as client:
        client.flushall()
    return session_servers.redis_url


@pytest.fixture(scope="session")
def session_simulator() -> Iterator[StartedSimulator]:
    """Give this process's own simulator of Intuit."""
    with intuit_simulator.start() as running:
        yield running


@pytest.fixture
def simulator(session_simulator: StartedSimulator) -> StartedSimulator:
    """Give the simulator as it was started: strict, without grants, faults and journal."""
    session_simulator.reset()
    return session_simulator


@pytest.fixture(scope="session")
def _keys() -> dict[str, str]:
    return {"TOKEN_KEYS": f"test:{sealing.new_key()}", "LOOKUP_KEY": sealing.new_key()}


@pytest.fixture
def owner_environment(
    database_url: str, redis_url: str, simulator: StartedSimulator, _keys: dict[str, str]
) -> dict[str, str]:
    """Give the variables of a worker that runs as the owner of the tables, and may do everything to Valkey."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "INTUIT_CLIENT_ID": simulator.client_id,
        "INTUIT_CLIENT_SECRET": simulator.client_secret,
        "INTUIT_ENVIRONMENT": "sandbox",
        "INTUIT_TOKEN_URL": simulator.token_url,
        "INTUIT_REVOKE_URL": simulator.revoke_url,
        **_keys,
    }


@pytest.fixture
def environment(owner_environment: dict[str, str]) -> dict[str, str]:
    """Give the environment variables of a worker; a test may change them before it asks for anything else."""
    return owner_environment


def settings_of(environment: dict[str, str]) -> Settings:
    """Return the settings that these variables make, whatever the developer's own environment says."""
    return _settings_of(frozenset(environment.items()))


@cache  # 4 ms each, and nearly all tests have the same
def _settings_of(variables: frozenset[tuple[str, str]]) -> Settings:
    values: dict[str, Any] = dict(variables)
    return Settings(_env_file=None, **values)


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """Give the settings of `environment`."""
    return settings_of(environment)


@pytest.fixture
def database(owner_environment: dict[str, str]) -> Iterator[Database]:
    """Give a way to the database for the test itself, as its owner; a worker has another one."""
    db = Database(settings_of(owner_environment).database())
    yield db
    db.close()


@pytest.fixture
def fleet(database: Database, settings: Settings, simulator: StartedSimulator) -> Fleet:
    """Give the means to make connections and to look at them."""
    return Fleet(database, settings, simulator)


@pytest.fixture
def consents(environment: dict[str, str], simulator: StartedSimulator) -> Iterator[Consents]:
    """Give a host whose customers connect and reconnect. The worker has started once before."""
    config = settings_of(environment)
    db = Database(config.database())
    app = config.apps()[0]
    apps.ensure(db, environment=app.environment, client_id=app.client_id)
    db.close()
    made = Consents(environment, simulator)
    yield made
    made.close()


@pytest.fixture
def start_worker(environment: dict[str, str]) -> Iterator[Callable[..., Runtime]]:
    """Give a function that puts a worker together; its keyword arguments are variables that differ.

    Each call is a worker of its own, with its own connections.
    """
    started: list[Runtime] = []

    def start(**changes: str) -> Runtime:
        made = runtime.build(settings_of(environment | changes))
        started.append(made)
        return made

    yield start
    for each in started:
        each.close()


@pytest.fixture
def refresher(start_worker: Callable[..., Runtime]) -> Refresher:
    """Give the use case of one worker with the default pace."""
    return start_worker().refresher


@pytest.fixture
def second_refresher(start_worker: Callable[..., Runtime]) -> Refresher:
    """Give the use case of another worker."""
    return start_worker().refresher


@pytest.fixture
def run(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Run]:
    """Give a function that runs a command of `qbo-refresh` and returns its status, output and errors."""
    for name, value in environment.items():
        monkeypatch.setenv(f"QBO_{name}", value)
    monkeypatch.chdir(tmp_path)
    worker_settings.load.cache_clear()

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return int(str(ended.value.code)), printed.out, printed.err

    yield command
    worker_settings.load.cache_clear()
