"""The operator's commands and the worker itself, as processes, with what people get wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from qbo_refresh.sealing import Keyring
from tests.support import nursery

if TYPE_CHECKING:
    from tests.support.fleet import Fleet
    from tests.support.nursery import Kind

ROOT = str(Path(__file__).resolve().parents[2])
CLI = (sys.executable, "-m", "worker.cli")
WORKER = (sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-P", "threads", "-c", "2")


def ended(command: tuple[str, ...], environment: dict[str, str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with these variables and nothing of the developer's own, in a fork that has imported it."""
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": ROOT, "PYTHONWARNINGS": "ignore"}
    kind: Kind = "qbo-refresh" if command[: len(CLI)] == CLI else "celery"
    with tempfile.TemporaryDirectory() as printed:
        out, err = Path(printed, "out"), Path(printed, "err")
        start = nursery.here().start
        made = start(kind, command[3:], variables=plain | environment, directory=directory, out=out, err=err)
        try:
            status = made.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(made.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username or ''}:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"REDIS_URL": ""}, "REDIS_URL is not set"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL is not a Redis URL"),
        ({"REDIS_URL": "redis://:can/ary@h:abc/0"}, "REDIS_URL is malformed"),
        ({"REDIS_URL": "wrong password"}, "Redis at REDIS_URL refuses the user or the password"),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgresql://u:can/ary@h:abc/x"}, "DATABASE_URL is malformed"),
        ({"DATABASE_URL": "wrong password"}, "it refuses the password"),
        ({"DATABASE_SCHEMA": "elsewhere"}, "run `qbo-refresh migrate`"),
        ({"TOKEN_KEYS": ""}, "TOKEN_KEYS is not set"),
        ({"TOKEN_KEYS": "canary"}, "TOKEN_KEYS must be"),
        ({"LOOKUP_KEY": "canary"}, "LOOKUP_KEY"),
        ({"INTUIT_CLIENT_SECRET": ""}, "INTUIT_CLIENT_ID and INTUIT_CLIENT_SECRET are not set"),
        ({"INTUIT_TOKEN_URL": "https://stranger.invalid/"}, "refresh tokens would go to a stranger"),
        ({"REFRESH_PER_MINUTE": "many"}, "REFRESH_PER_MINUTE"),
        ({"SENTRY_DSN": "canary"}, "SENTRY_DSN is not a DSN"),
    ],
)
def test_a_worker_with_a_wrong_setting_ends_with_one_sentence_and_status_2(
    environment: dict[str, str], tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    changed = {
        name: with_password(environment[name], "canary") if value == "wrong password" else value
        for name, value in changes.items()
    }
    done = ended(WORKER, environment | changed, tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "ary" not in done.stderr.replace("necessary", "")


def test_an_unknown_database_and_a_database_that_is_away_are_told_apart(
    environment: dict[str, str], tmp_path: Path
) -> None:
    unknown = environment["DATABASE_URL"] + "x"
    done = ended(WORKER, environment | {"DATABASE_URL": unknown}, tmp_path)
    assert done.returncode == 2
    assert "no such database" in done.stderr


@pytest.mark.parametrize(
    "command", ["list", "status", "explain 7", "dry-run", "guard", "guard release --reason x", "app", "app unblock"]
)
def test_a_command_without_a_database_ends_with_one_sentence(tmp_path: Path, command: str) -> None:
    done = ended((*CLI, *command.split()), {}, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qbo-refresh: DATABASE_URL is not set")
    away = ended((*CLI, *command.split()), {"DATABASE_URL": "postgresql://u:canary@127.0.0.1:1/x"}, tmp_path)
    assert away.returncode == 2
    assert len(away.stderr.splitlines()) == 1
    assert "canary" not in away.stderr


def test_list_prints_one_object_a_line_and_neither_realm_nor_token(
    environment: dict[str, str], fleet: Fleet, tmp_path: Path
) -> None:
    made = fleet.connect(3, label="eu\x1b[31m")
    done = ended((*CLI, "list", "--json", "--limit", "0"), environment, tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [each.id for each in made]
    assert rows[0]["due_at"].endswith("Z")
    plain = ended((*CLI, "list", "--limit", "2"), environment, tmp_path)
    assert plain.stdout.splitlines()[1].split("\t")[:4] == [str(made[0].id), "eu�[31m", "", "active"]
    assert plain.stderr == "1 more (--limit 0 shows all).\n"
    for each in made:
        assert each.realm_id not in done.stdout + plain.stdout
        assert each.refresh_token not in done.stdout + plain.stdout


def test_status_check_exits_with_1_and_says_why(environment: dict[str, str], fleet: Fleet, tmp_path: Path) -> None:
    well = ended((*CLI, "status", "--check"), environment, tmp_path)
    assert (well.returncode, well.stdout) == (0, "All is well.\n")
    fleet.connect()
    unwell = ended((*CLI, "status", "--check"), environment, tmp_path)
    assert unwell.returncode == 1
    assert "no sweep has ever run" in unwell.stdout
    shown = ended((*CLI, "status", "--json"), environment, tmp_path)
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["by_status"] == {"active": 1}
    assert ended((*CLI, "status"), environment, tmp_path).returncode == 0


def test_doctor_prints_a_line_for_each_check(environment: dict[str, str], fleet: Fleet, tmp_path: Path) -> None:
    fleet.connect()
    done = ended((*CLI, "doctor", "--json"), environment, tmp_path)
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout
    assert len(checks) == 20
    nothing = ended((*CLI, "doctor"), {}, tmp_path)
    assert nothing.returncode == 1
    assert "TOKEN_KEYS is not set" in nothing.stdout
    assert nothing.stderr == ""


def test_simulate_takes_the_simulators_own_options(tmp_path: Path) -> None:
    done = ended((*CLI, "simulate", "--help"), {}, tmp_path)
    assert done.returncode == 0
    assert "--admin-key-file" in done.stdout
    assert ended((*CLI, "simulate", "--port", "x"), {}, tmp_path).returncode == 2


def test_run_without_a_database_starts_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    without = {name: value for name, value in environment.items() if name != "DATABASE_URL"}
    done = ended((*CLI, "run"), without, tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--embedded" in done.stderr
    both = ended((*CLI, "run", "--embedded"), environment, tmp_path)
    assert both.returncode == 2
    assert "--embedded would not use it" in both.stderr
    assert not (tmp_path / ".qbo-refresh").exists()


def test_keys_client_prints_what_opens_no_refresh_token(environment: dict[str, str], tmp_path: Path) -> None:
    printed = ended((*CLI, "keys", "client"), environment, tmp_path)
    assert printed.returncode == 0
    name, _, value = printed.stdout.strip().partition("=")
    assert (name, Keyring.from_client_text(value).key_ids) == ("CLIENT_KEYS", ("test",))
    assert environment["TOKEN_KEYS"].partition(":")[2] not in printed.stdout
    as_json = ended((*CLI, "keys", "client", "--json"), environment, tmp_path)
    assert json.loads(as_json.stdout) == {"CLIENT_KEYS": value}
    missing = ended((*CLI, "keys", "client"), {}, tmp_path)
    assert (missing.returncode, "TOKEN_KEYS is not set" in missing.stderr) == (2, True)


def test_roles_prints_sql_and_acl_lines_and_changes_nothing_unasked(
    environment: dict[str, str], tmp_path: Path, fleet: Fleet
) -> None:
    printed = ended((*CLI, "roles", "--client", "host", "--worker", "w"), environment, tmp_path)
    assert printed.returncode == 0
    assert 'GRANT SELECT ON "qbo"."sync_holds" TO "host";' in printed.stdout
    assert "user w on" in printed.stdout
    assert fleet.db.execute("SELECT FROM pg_roles WHERE rolname IN ('host', 'w')").all() == []
    odd = ended((*CLI, "roles", "--client", "a'b"), environment, tmp_path)
    assert (odd.returncode, "small letters" in odd.stderr) == (2, True)
    bare = environment | {"DATABASE_SCHEMA": "elsewhere"}
    assert "qbo-refresh migrate" in ended((*CLI, "roles", "--apply"), bare, tmp_path).stderr
