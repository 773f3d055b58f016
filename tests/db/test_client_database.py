from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from qbo_refresh import configuration
from qbo_refresh.database import STATEMENT_S, Database, DatabaseAway
from qbo_refresh.errors import ConfigurationError
from qbo_refresh.secret import Secret
from tests.support.processes import ROOT
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbo_refresh.configuration import Configuration

_PID = "SELECT pg_backend_pid() AS pid"
_CUT = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'qbo-refresh-client'"


@pytest.fixture
def config(environment: dict[str, str]) -> Configuration:
    configuration.configure(database_url=environment["DATABASE_URL"], token_keys=environment["TOKEN_KEYS"])
    return configuration.current()


@pytest.fixture
def way(config: Configuration) -> Iterator[Database]:
    made = Database(config)
    yield made
    made.close()


def test_connections_that_were_cut_off_while_they_were_kept_are_replaced_unnoticed(
    way: Database, database_url: str
) -> None:
    together = threading.Barrier(3)

    def use() -> None:
        together.wait()
        way.rows("SELECT pg_sleep(0.2)", {})

    threads = [threading.Thread(target=use) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with psycopg.connect(database_url, autocommit=True) as admin:
        assert len(admin.execute(_CUT).fetchall()) == 3
    assert way.row(_PID, {}).pid


def test_a_connection_that_died_without_a_word_holds_nobody_for_ever(config: Configuration, database_url: str) -> None:
    # Fails without the bound: seen, the caller waits until somebody kills it. A half-open line took the chaos run's
    # callers, of which `access_token(timeout=2)` was asked.
    with FaultProxy(database_url) as proxy:
        way = Database(replace(config, database_url=Secret(proxy.url)))
        try:
            assert way.row(_PID, {}).pid
            proxy.cut("silent")
            began = time.monotonic()
            with pytest.raises(DatabaseAway):
                way.row(_PID, {})
            assert time.monotonic() - began < 2 * STATEMENT_S
            assert way.row(_PID, {}).pid, "the next one has a connection that works"
        finally:
            way.close()


def test_more_callers_than_connections_wait_their_turn(way: Database, database_url: str) -> None:
    threads = [threading.Thread(target=way.rows, args=("SELECT pg_sleep(0.01)", {})) for _ in range(50)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with psycopg.connect(database_url, autocommit=True) as admin:
        assert len(admin.execute(_CUT).fetchall()) <= configuration.POOL_SIZE


def test_a_database_that_is_away_is_said_in_words_that_quote_nothing(config: Configuration) -> None:
    canary = "canary-value"
    for url, kind in (
        (f"postgresql://user:{canary}@127.0.0.1:1/name", DatabaseAway),
        (f"postgresql://user:{canary}@[/name", ConfigurationError),
    ):
        with pytest.raises(kind) as caught:
            Database(replace(config, database_url=Secret(url))).rows("SELECT 1", {})
        assert canary not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_value_that_the_driver_cannot_send_is_no_database_that_is_away(way: Database) -> None:
    with pytest.raises(psycopg.DataError):
        way.rows("SELECT %(text)s::text", {"text": "a\0b"})


def test_another_schema_and_a_database_without_tables_are_told_apart(way: Database, config: Configuration) -> None:
    assert way.rows("SELECT id FROM qbo.connections", {}) == []
    elsewhere = Database(replace(config, schema="elsewhere"))
    with pytest.raises(ConfigurationError, match="qbo-refresh migrate"):
        elsewhere.rows("SELECT id FROM qbo.connections", {})
    elsewhere.close()


_FORKING = """
import os
from qbo_refresh.database import database

def process_id():
    return database().row("SELECT pg_backend_pid() AS pid", {}).pid

before = process_id()
child = os.fork()
if child == 0:
    assert process_id() != before
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert process_id() == before
"""


def test_a_forked_child_uses_connections_of_its_own_and_leaves_the_parents_alone(environment: dict[str, str]) -> None:
    variables = {name: environment[name] for name in ("DATABASE_URL", "TOKEN_KEYS")}
    subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", _FORKING], env=variables, check=True, cwd=ROOT
    )
