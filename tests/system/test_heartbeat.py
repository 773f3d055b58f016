from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import Programs, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fleet import Fleet
    from worker.embedded import Servers


class Monitor(ThreadingHTTPServer):
    """Somebody elsewhere who hears heartbeats, and fails if told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hears)
        self.heard: list[float] = []
        self.status = 200

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/ping"


class _Hears(BaseHTTPRequestHandler):
    server: Monitor

    def do_GET(self) -> None:  # http.server's name
        self.server.heard.append(time.monotonic())
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_row_35_the_heartbeat_comes_with_sweeps_that_went_well_and_stops_with_broker_or_beat(
    programs: Programs, fleet: Fleet, monitor: Monitor, session_servers: Servers
) -> None:
    # Fails with a heartbeat after a sweep that was skipped, with one that ends a sweep when it fails, and with one that
    # a thread of the worker sends: seen.
    pace = {"SWEEP_SECONDS": "0.5", "HEARTBEAT_URL": monitor.url}
    monitor.status = 500
    (connected,) = fleet.connect()
    worker, beat = programs.ready_worker(threads=1, variables=pace), programs.beat(variables=pace)
    worker.wait_for("heartbeat.failed")
    eventually(lambda: fleet.holds_the_live_token(connected) and fleet.row(connected.id).token_version == 2)
    assert worker.says("Traceback") == [], "a monitor that is ill is in nobody's way"
    monitor.status = 200
    heard = len(monitor.heard)
    eventually(lambda: len(monitor.heard) > heard + 2)

    fleet.db.execute("UPDATE qbo.control SET frozen = true")
    # With one thread a heartbeat is over before the next sweep begins.
    worker.wait_for("sweep.skipped")
    heard, skipped = len(monitor.heard), len(worker.says("sweep.skipped"))
    eventually(lambda: len(worker.says("sweep.skipped")) > skipped + 3)
    assert len(monitor.heard) == heard, "a sweep that was skipped did not go well"
    fleet.db.execute("UPDATE qbo.control SET frozen = false")
    eventually(lambda: len(monitor.heard) > heard + 2)

    beat.kill()
    eventually(lambda: time.monotonic() - monitor.heard[-1] > 2)

    heard = len(monitor.heard)
    beat = programs.beat(variables=pace)
    eventually(lambda: len(monitor.heard) > heard + 2)
    session_servers.stop_valkey()
    try:
        eventually(lambda: time.monotonic() - monitor.heard[-1] > 2)
    finally:
        session_servers.start_valkey()
    assert (worker.is_running, beat.is_running) == (True, True)
