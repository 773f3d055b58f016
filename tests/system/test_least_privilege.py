"""The worker and a host under the roles that `qbo-refresh roles` makes, in PostgreSQL and in Valkey."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

import qbo_refresh
from qbo_refresh import other_side
from tests.support.hosts import configured, host_variables
from tests.support.processes import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.fleet import Fleet
    from tests.support.processes import Programs

WORKER, CLIENT = "qbo_worker", "qbo_client"


def as_user(url: str, user: str, password: str) -> str:
    """Return a server's URL for another user."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def variables_of(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Give the variables of a worker and of a host's process, each under its own users."""
    command = [sys.executable, "-m", "worker.cli", "roles", "--apply", "--json"]
    process = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    made = subprocess.run(command, cwd=tmp_path, env=process | environment, capture_output=True, check=True, text=True)
    password = secrets.token_hex(16)
    with (
        psycopg.connect(environment["DATABASE_URL"], autocommit=True) as admin,
        redis.Redis.from_url(environment["REDIS_URL"]) as valkey,
    ):
        for role in (WORKER, CLIENT):
            admin.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{password}'".encode())
        for line in json.loads(made.stdout)["valkey"]:
            valkey.execute_command("ACL", "SETUSER", *line.replace("PASSWORD", password).split()[1:])
        yield {
            role: environment
            | {name: as_user(environment[name], role, password) for name in ("DATABASE_URL", "REDIS_URL")}
            for role in (WORKER, CLIENT)
        }
        for role in (WORKER, CLIENT):
            admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
            valkey.execute_command("ACL", "DELUSER", role)


def test_worker_beat_and_host_work_under_their_roles_and_the_host_reads_no_refresh_token(
    variables_of: dict[str, dict[str, str]], programs: Programs, fleet: Fleet
) -> None:
    swept, asked, held = fleet.connect(3)
    fleet.update(asked.id, "next_refresh_at = now() + '1 day'")
    fleet.update(held.id, "next_refresh_at = now() + '1 day'")
    fleet.db.execute("INSERT INTO qbo.sync_holds VALUES (%(id)s, 'operator')", {"id": held.id})
    mine = variables_of[WORKER] | {"SWEEP_SECONDS": "1"}
    worker = programs.ready_worker(variables=mine)
    programs.beat(variables=mine)
    with configured(variables_of[CLIENT], lookup_key=None) as host:
        token = qbo_refresh.access_token(asked.id)
        assert (token.version, token.realm_id.reveal()) == (2, asked.realm_id)
        with pytest.raises(qbo_refresh.SyncPaused):
            qbo_refresh.ensure_syncable(held.id)
        other_side.here().count_missed(held.id)
        qbo_refresh.events()
        with psycopg.connect(host.database_url.reveal()) as connection:
            for column in ("refresh_token", "previous_refresh_token", "*"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT {column} FROM qbo.connections".encode())  # noqa: S608  # constants
                connection.rollback()
    with redis.Redis.from_url(variables_of[CLIENT]["REDIS_URL"]) as valkey:
        for arguments in (["KEYS", "*"], ["GET", "qbo:escrow:1"], ["FLUSHALL"], ["LRANGE", "qbo.adhoc", "0", "-1"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                valkey.execute_command(*arguments)
    eventually(lambda: fleet.row(swept.id).last_outcome == "refreshed")
    worker.terminate()
    assert worker.exit_code() == 0
    assert programs.says(r"ERROR|NOPERM|InsufficientPrivilege") == []


# Every name that a crash could show: modules, their variables, and what the process was started with.
_LOOK = """
import json, os, sys
import qbo_refresh
began = dict.fromkeys(sys.modules)
assert not {"celery", "psycopg", "sqlalchemy", "click", "requests"} & set(began), "importing it must be light"
import celery._state
apps = list(celery._state._get_active_apps())
for name in qbo_refresh.__all__:
    getattr(qbo_refresh, name)
assert list(celery._state._get_active_apps()) == apps, "importing it must make no app"
ours = {name for name in sys.modules if name.partition(".")[0] in ("worker", "alembic", "requests", "intuit_simulator")}
assert not ours, ours
token = qbo_refresh.access_token(int(sys.argv[1]))
ours = {name for name in sys.modules if name.partition(".")[0] in ("worker", "alembic", "requests", "pydantic")}
assert not ours, ours
print(json.dumps({"version": token.version, "environment": dict(os.environ)}))
"""


def test_a_hosts_process_holds_no_refresh_token_no_client_secret_and_no_key_of_them(
    programs: Programs, fleet: Fleet, environment: dict[str, str]
) -> None:
    (connected,) = fleet.connect()
    programs.ready_worker()
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | host_variables(environment)
    said = subprocess.run(
        [sys.executable, "-c", _LOOK, str(connected.id)], env=variables, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["version"] == 2
    for secret in (environment["TOKEN_KEYS"].partition(":")[2], environment["INTUIT_CLIENT_SECRET"], "RT1-"):
        assert secret not in said.stdout
