"""The worker and a host under the roles that `qbo-refresh roles` makes, in PostgreSQL and in Valkey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

import qbo_refresh
from qbo_refresh import other_side
from tests.support.hosts import configured, host_variables
from tests.support.processes import ROOT, eventually
from tests.support.roles import CLIENT, WORKER, of_host

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from tests.support.processes import Programs

_OTHERS = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def test_worker_beat_and_host_work_under_their_roles_and_the_host_reads_no_refresh_token(
    environment: dict[str, str], programs: Programs, fleet: Fleet, valkey: redis.Redis
) -> None:
    instruments = {each["id"] for each in valkey.client_list()}  # of this test's process, and of tests before it
    swept, asked, held = fleet.connect(3)
    fleet.update(asked.id, "next_refresh_at = now() + '1 day'")
    fleet.update(held.id, "next_refresh_at = now() + '1 day'")
    fleet.db.execute("INSERT INTO qbo.sync_holds VALUES (%(id)s, 'operator')", {"id": held.id})
    mine = {"SWEEP_SECONDS": "1"}
    worker = programs.ready_worker(variables=mine)
    programs.beat(variables=mine)
    with configured(environment, lookup_key=None) as host:
        token = qbo_refresh.access_token(asked.id)
        assert (token.version, token.realm_id.reveal()) == (2, asked.realm_id)
        with pytest.raises(qbo_refresh.SyncPaused):
            qbo_refresh.ensure_syncable(held.id)
        other_side.here().count_missed(held.id)
        qbo_refresh.events()
        assert {row.usename for row in fleet.db.execute(_OTHERS)} == {WORKER, CLIENT}
        started = [each["user"] for each in valkey.client_list() if each["id"] not in instruments]
        assert WORKER in started
        assert set(started) <= {WORKER, CLIENT}
        with psycopg.connect(host.database_url.reveal()) as connection:
            for column in ("refresh_token", "previous_refresh_token", "*"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"SELECT {column} FROM qbo.connections".encode())  # noqa: S608  # constants
                connection.rollback()
    with redis.Redis.from_url(of_host(environment["REDIS_URL"])) as host_s:
        for arguments in (["KEYS", "*"], ["GET", "qbo:escrow:1"], ["FLUSHALL"], ["LRANGE", "qbo.adhoc", "0", "-1"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                host_s.execute_command(*arguments)
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
