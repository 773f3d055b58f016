"""Row 33: canaries in every secret, every error path, and a search of every place where a secret may not be."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from celery import Celery

from tests.conftest import settings_of
from tests.support import events
from tests.support.consents import CalledBack, Consents
from tests.support.fleet import Connected, Fleet
from tests.support.leaks import Canaries, EnvelopeSink, command_lines, files_below
from tests.support.processes import Programs, eventually
from tests.support.roles import as_worker
from worker.database import Database
from worker.embedded.processes import free_port
from worker.queues import ADHOC, EXCHANGE, REFRESH_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from intuit_simulator import StartedSimulator
    from worker.embedded import Servers

from qbo_refresh.sealing import Field

_ACCESS = Field.ACCESS_TOKEN
CLIENT_SECRET = 'canary"client/secret+of é&the~app'
PREVIOUS = "canary-previous-client-secret-8c1f"
PLANTED = "planted-canary/0123456789+abc"
# Where a child process crashes when the file says so: each function has secrets in its caller's local variables.
CRASH_IN = ("psycopg:Cursor.execute", "urllib3:HTTPConnectionPool.urlopen", "hmac:HMAC.update", "json:loads")
CRASH_IN_AN_EXCHANGE = "urllib3:HTTPConnectionPool.urlopen"
REFUSED_CODE = "canary-refused-code/8d1e+c70"
# Celery decodes a message's body in the pool's thread, outside of the task: what it raises there stays in a future that
# nobody reads, and no log or Sentry hears of it. So only the worker's own calls of `json` crash.
_CRASHES = """
import importlib, os, pathlib, sys, threading
def plant(name):
    module, _, path = name.partition(":")
    owner = importlib.import_module(module)
    *outer, last = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    real = getattr(owner, last)
    def crashing(*args, **kwargs):
        file = pathlib.Path(os.environ["TEST_CRASH_FILE"])
        at_work = threading.current_thread().name.startswith("ThreadPoolExecutor")
        if name.startswith("json:"):
            at_work = at_work and sys._getframe(1).f_globals.get("__name__", "").startswith("worker.")
        if at_work and file.exists() and file.read_text() == name:
            file.unlink()
            raise RuntimeError("a planted crash")
        return real(*args, **kwargs)
    setattr(owner, last, crashing)
for name in os.environ["TEST_CRASHES"].split():
    plant(name)
"""


class Scene:
    """A fleet under a worker, a beat and Flower, with everything that they leave behind."""

    def __init__(
        self, directory: Path, environment: dict[str, str], servers: Servers, simulator: StartedSimulator
    ) -> None:
        simulator.set_secrets(CLIENT_SECRET)
        self.servers, self.simulator, self.directory, self.owner = servers, simulator, directory, environment
        self.sink = EnvelopeSink()
        self.login = f"operator:{secrets.token_urlsafe(9)}"
        self.flower_url = f"http://127.0.0.1:{free_port()}"
        self.crash_file = directory / "crash"
        (directory / "site").mkdir()
        (directory / "site" / "sitecustomize.py").write_text(_CRASHES)
        self.variables = as_worker(environment) | {
            "INTUIT_CLIENT_SECRET": CLIENT_SECRET,
            "INTUIT_CLIENT_SECRET_PREVIOUS": PREVIOUS,
            "SENTRY_DSN": self.sink.dsn,
            "LOG_LEVEL": "DEBUG",
            "LEASE_SECONDS": "3",
            "BACKOFF_SECONDS": "1",
            "CONFIRM_AFTER_SECONDS": "1",
            "SWEEP_SECONDS": "1800",
        }
        self.programs = Programs(directory, self.variables, servers.watch)
        config = settings_of(self.variables | self.owner)
        self.db = Database(config.database())
        self.fleet = Fleet(self.db, config, simulator)
        self.consents = Consents(self.variables, simulator)
        self.valkey = redis.Redis.from_url(config.redis())
        self.app = Celery("host", broker=config.redis(), backend=config.redis(), set_as_current=False)
        self.events: list[bytes] = []
        self.cli: list[bytes] = []
        self._listening = ExitStack()
        self._listening.enter_context(
            events.heard(self.app, {"*": lambda event: self.events.append(repr(event).encode())})
        )

    def start(self) -> None:
        """Start a worker that can be made to crash, Flower and a beat."""
        path = os.pathsep.join((str(self.directory / "site"), self.programs.python_path))
        crashing = {
            "PYTHONPATH": path,
            "TEST_CRASHES": " ".join(CRASH_IN),
            "TEST_CRASH_FILE": str(self.crash_file),
        }
        queue = ("-Q", "qbo.sweep,qbo.adhoc,qbo.events", "-n", "leaks@%h")
        self.worker = self.programs.start(
            "worker", "-P", "threads", "-c", "4", "-E", *queue, "-l", "DEBUG", variables=crashing
        )
        port = self.flower_url.rpartition(":")[2]
        login = {"FLOWER_BASIC_AUTH": self.login, "FLOWER_READ_ONLY": "true"}
        self.programs.start("flower", "--address=127.0.0.1", f"--port={port}", variables=login)
        self.programs.start("beat", "-l", "DEBUG")
        self.worker.wait_for(r"@\S+ ready\.")
        eventually(lambda: "broker_url" in self.page("/api/workers?refresh=1"))

    def ask(self, connected: Connected) -> dict[str, Any]:
        """Have a connection refreshed, and wait for what comes of it."""
        asked = self.app.send_task(REFRESH_CONNECTION, args=[connected.id], kwargs={"max_age": 0}, queue=ADHOC)
        answer: dict[str, Any] = asked.get(timeout=60, propagate=False)
        return answer

    def exchange(self, brought: CalledBack) -> None:
        """Call a consent back, and wait until its code has been exchanged, or not."""
        authorization_id = self.consents.accept(brought)
        self.app.send_task(EXCHANGE, args=[authorization_id], queue=ADHOC)
        self.worker.wait_for(rf"exchange authorization_id={authorization_id} ")

    def crash(self, name: str, task: str, id_: int) -> None:
        """Have a task crash in there. Nobody waits for its answer: the crash may come where it is on its way."""
        self.crash_file.write_text(name)
        self.app.send_task(task, args=[id_], kwargs={"max_age": 0} if task == REFRESH_CONNECTION else {}, queue=ADHOC)
        eventually(lambda: not self.crash_file.exists(), within_s=30, what=f"{task} crashes in {name}")

    def crashes_heard_of(self) -> int:
        """Count Sentry's events of them, by the value: the words are there once more, in the line that raised it."""
        return len(re.findall(rb'"value": ?"a planted crash"', self.sink.text()))

    def page(self, path: str) -> str:
        """Return a page of Flower's; empty while it is starting."""
        login = base64.b64encode(self.login.encode()).decode()
        asked = urllib.request.Request(f"{self.flower_url}{path}", headers={"Authorization": f"Basic {login}"})  # noqa: S310  # loopback
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310  # loopback
                return str(answer.read().decode())
        except urllib.error.URLError:
            return ""

    def command(self, *arguments: str) -> None:
        """Run `qbo-refresh` and keep what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", *arguments],
            capture_output=True,
            check=False,
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": self.programs.python_path, **self.variables},
        )
        self.cli += [done.stdout, done.stderr]

    def tables(self) -> bytes:
        """Return a full copy of all tables, and a dump."""
        texts = []
        with psycopg.connect(self.owner["DATABASE_URL"]) as connection:
            for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'qbo'").fetchall():
                with connection.cursor().copy(f"COPY qbo.{table} TO STDOUT".encode()) as copy:
                    texts += [bytes(piece) for piece in copy]
        dump = self.servers.bin_directory / "pg_dump"
        if dump.exists():
            url = self.owner["DATABASE_URL"]
            password = {"PGPASSWORD": urlsplit(url).password or ""}
            bare = urlsplit(url)._replace(netloc=url.rpartition("@")[2].partition("/")[0]).geturl()
            user = str(urlsplit(url).username)
            texts.append(subprocess.run([dump, bare, "-U", user], capture_output=True, check=True, env=password).stdout)
        return b"\n".join(texts)

    def postgres_files(self) -> bytes:
        """Return the write-ahead log, the tables' files and the server's log."""
        with psycopg.connect(self.servers.database_url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        from pathlib import Path  # noqa: PLC0415  # of this method alone

        return b"".join(files_below(Path(data) / name) for name in ("pg_wal", "base", "log"))

    def redis_contents(self) -> bytes:
        """Return all keys and values, and each key's dump."""
        read: dict[object, Callable[[Any], object]] = {
            b"string": self.valkey.get,
            b"list": lambda key: self.valkey.lrange(key, 0, -1),
            b"hash": self.valkey.hgetall,
            b"set": self.valkey.smembers,
            b"zset": lambda key: self.valkey.zrange(key, 0, -1),
        }
        keys = list(self.valkey.scan_iter())
        values = [read.get(self.valkey.type(key), lambda _: b"")(key) for key in keys]
        # Messages hold their bodies in base64 in JSON: `found_in` knows both.
        return b"\n".join([*keys, *(_flat(value) for value in values), *(self.valkey.dump(key) or b"" for key in keys)])

    def flower(self) -> bytes:
        """Return Flower's pages and the answers of its API."""
        tasks = json.loads(self.page("/api/tasks?limit=1000") or "{}")
        pages = ["/api/tasks", "/api/workers", "/tasks", "/workers", *(f"/task/{each}" for each in list(tasks)[:50])]
        return "\n".join(map(self.page, pages)).encode()

    def places(self) -> dict[str, Callable[[], bytes]]:
        """Return where no secret may be."""
        return {
            "logs": lambda: self.programs.output().encode(),
            "sentry": self.sink.text,
            "flower": self.flower,
            "events": lambda: b"\n".join(self.events),
            "redis": self.redis_contents,
            "tables": self.tables,
            "postgres files": self.postgres_files,
            "command lines": command_lines,
            "command line output": lambda: b"\n".join(self.cli),
        }

    def canaries(self, connected: list[Connected], brought: list[CalledBack]) -> Canaries:
        """Return every secret there is."""
        config = settings_of(self.variables)
        found: dict[str, bytes | str] = {
            "client secret": CLIENT_SECRET,
            "previous client secret": PREVIOUS,
            "password": str(urlsplit(self.variables["DATABASE_URL"]).password),
            "owner's password": str(urlsplit(self.owner["DATABASE_URL"]).password),
        }
        for name in ("TOKEN_KEYS", "LOOKUP_KEY"):
            text = self.variables[name].rpartition(":")[2]
            found |= {name: text, f"{name}, raw": base64.b64decode(text)}
        for each in connected:
            row, state = self.fleet.row(each.id), self.simulator.state(each.realm_id)
            found |= {f"realm {each.id}": each.realm_id, f"first token {each.id}": each.refresh_token}
            found[f"token at Intuit {each.id}"] = state.refresh_token
            if row.access_token is not None:
                place = self.fleet.place(each.id, _ACCESS, grant_number=row.grant_number)
                found[f"access token {each.id}"] = config.keyring().open(row.access_token, place).reveal()[-48:]
        for number, consent in enumerate(brought):
            found |= {f"code {number}": consent.code, f"realm of code {number}": consent.realm_id}
            found |= {f"state {number}": consent.state, f"session {number}": consent.session}
        return Canaries(found)

    def close(self) -> None:
        """End everything."""
        self._listening.close()
        self.programs.close()
        self.consents.close()
        self.sink.close()
        self.valkey.close()
        self.app.close()
        self.db.close()


def _flat(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case dict():
            return b"\n".join(_flat(each) for pair in value.items() for each in pair)
        case list() | set() | tuple():
            return b"\n".join(_flat(each) for each in value)
        case _:
            return str(value).encode()


@pytest.fixture
def scene(
    tmp_path: Path, owner_environment: dict[str, str], session_servers: Servers, simulator: StartedSimulator
) -> Iterator[Scene]:
    made = Scene(tmp_path, owner_environment, session_servers, simulator)
    yield made
    made.close()


def _go_through_consents(scene: Scene, good: Connected, cut: Connected) -> list[CalledBack]:
    """Have a consent succeed, one refused, two whose answers are cut, and a crash; return what the browsers brought."""
    consents = scene.consents
    brought = [
        consents.consent(good.id, good.realm_id),
        replace(consents.consent("external:refused"), code=REFUSED_CODE),
        consents.consent(cut.id, cut.realm_id),
        consents.consent("external:lost"),
        consents.consent("external:crashed"),
    ]
    scene.exchange(brought[0])
    scene.exchange(brought[1])
    for each, after_bytes in zip(brought[2:], (400, 40), strict=False):  # the refresh token is within 400, whole
        scene.simulator.fault("cut", after_bytes=after_bytes, count=1, realm_ids=each.realm_id)
        scene.exchange(each)
    scene.crash(CRASH_IN_AN_EXCHANGE, EXCHANGE, consents.accept(brought[4]))
    ended = scene.db.execute("SELECT outcome FROM qbo.authorizations ORDER BY id").all()
    assert [row.outcome for row in ended] == ["connected", "refused", "connected", "lost", None]
    return brought


def _go_through_everything(scene: Scene) -> tuple[list[Connected], list[CalledBack]]:
    """Have successes, every kind of refusal and crashes in every layer; return the connections and the consents."""
    fleet, simulator = scene.fleet, scene.simulator
    connected = fleet.connect(16, label="a label")
    faults: list[dict[str, Any]] = [
        {"kind": "invalid_grant"},
        {"kind": "invalid_client", "count": 2},
        {"kind": "answer", "status": 400, "error": "invalid_request"},
        {"kind": "unavailable"},
        {"kind": "html"},
        {"kind": "no_refresh_token"},
        {"kind": "override", "remove": ["access_token"]},
        {"kind": "cut", "after_bytes": 400},
        {"kind": "reset"},
        {"kind": "drip", "interval": 0.2, "of": "headers"},
    ]
    for fault, each in zip(faults, connected, strict=False):
        simulator.fault(**{"count": 1, **fault}, realm_ids=each.realm_id)
        scene.ask(each)
        simulator.set_secrets(CLIENT_SECRET)
    fleet.db.execute("DELETE FROM qbo.app_blocks")
    moved, absent, *rest = connected[10:]
    fleet.update(moved.id, "refresh_token = %(blob)s", blob=fleet.seal(absent.id, absent.refresh_token))
    assert scene.ask(moved)["outcome"] == "unreadable"
    scene.valkey.rpush(f"qbo:escrow:{absent.id}:1:1", b"not of ours")
    fleet.update(absent.id, "in_doubt = true")
    scene.ask(absent)
    for name, each in zip(CRASH_IN, rest, strict=True):
        scene.crash(name, REFRESH_CONNECTION, each.id)
    brought = _go_through_consents(scene, *connected[:2])
    scene.app.send_task(REFRESH_CONNECTION, args=["no id"], queue=ADHOC).get(timeout=60, propagate=False)
    for arguments in (
        ["list", "--json"],
        ["status", "--json"],
        ["doctor", "--json"],
        ["refresh", str(connected[0].id), "--json"],
        ["export", "-", "--sealed"],
        ["refresh", "external:nobody"],
    ):
        scene.command(*arguments)
    return connected, brought


@pytest.mark.timeout(150)
def test_row_33_no_secret_is_anywhere_and_the_search_finds_what_is_planted_in_each_place(scene: Scene) -> None:
    scene.start()
    connected, brought = _go_through_everything(scene)
    assert scene.worker.is_running
    eventually(
        lambda: scene.crashes_heard_of() == len((*CRASH_IN, CRASH_IN_AN_EXCHANGE)),
        what="Sentry has heard of every crash, once",
    )
    canaries = scene.canaries(connected, brought)
    for place, read in scene.places().items():
        text = read()
        assert len(text) > 1000, f"nothing was looked at: {place}"
        assert canaries.found_in(text) == set(), place
    _plant(scene)
    planted = Canaries({"it": PLANTED})
    with _planted_in_a_command_line():
        for place, read in scene.places().items():
            found = f"what was planted in {place} is found there"
            eventually(lambda read=read: planted.found_in(read()) == {"it"}, what=found)  # type: ignore[misc]  # bound at once


def _plant(scene: Scene) -> None:
    """Put a canary into each place, encoded in another way each time."""
    coded = base64.b64encode(f"x{PLANTED}".encode()).decode()
    scene.app.send_task(REFRESH_CONNECTION, args=[PLANTED], queue=ADHOC)  # to Redis, Flower and the events
    scene.valkey.set("planted", json.dumps({"body": coded}))
    scene.fleet.db.execute("UPDATE qbo.connections SET label = %(text)s", {"text": PLANTED.encode().hex()})
    with scene.worker.log.open("a") as log:
        log.write(f"a library says {coded}\n")
    request = urllib.request.Request(  # noqa: S310  # loopback
        scene.sink.dsn.replace("public@", ""), data=json.dumps({"vars": {"token": PLANTED}}).encode()
    )
    urllib.request.urlopen(request, timeout=5).close()  # noqa: S310  # loopback
    scene.command("list", PLANTED)


@contextlib.contextmanager
def _planted_in_a_command_line() -> Iterator[None]:
    """Have a process whose arguments are public for as long as it is looked for, and no longer."""
    with subprocess.Popen([sys.executable, "-c", "input()", PLANTED], stdin=subprocess.PIPE) as process:
        yield
        process.communicate(b"\n")
