from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from tests.support.servers import MISSING, find_pgbouncer, pgbouncer
from worker import embedded

pytestmark = pytest.mark.skipif(find_pgbouncer() is None, reason=MISSING)


def test_pgbouncer_shares_few_server_connections_among_many_clients() -> None:
    together = Barrier(6, timeout=20)

    def backend(url: str) -> int:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            together.wait()
            connection.execute("SELECT pg_sleep(0.05)")
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            assert row
            return int(row[0])

    with (
        embedded.start(valkey=False) as servers,
        pgbouncer(servers.database_url, default_pool_size=2) as url,
        ThreadPoolExecutor(6) as pool,
    ):
        assert url is not None
        assert url != servers.database_url
        backends = set(pool.map(backend, [url] * 6))
    assert 1 <= len(backends) <= 2
