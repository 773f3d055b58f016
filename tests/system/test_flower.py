from __future__ import annotations

import base64
import json
import os
import secrets
import urllib.error
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support import events
from tests.support.hosts import host_variables
from tests.support.processes import Programs, eventually, wait_until_ready
from tests.support.roles import HOST, PASSWORD, as_user
from tests.system.conftest import assert_without_secrets
from worker.embedded.processes import free_port
from worker.queues import REFRESH_CONNECTION, REFRESH_DUE, SWEEP

if TYPE_CHECKING:
    from celery import Celery

    from tests.support.fleet import Fleet

MANY = 300


def test_all_task_events_arrive_although_they_are_sent_in_groups(programs: Programs, another_app: Celery) -> None:
    arrived: Counter[str] = Counter()

    def count(event: dict[str, Any]) -> None:
        arrived[event["type"]] += 1

    programs.ready_worker(threads=8)
    with events.heard(another_app, {"*": count}):
        eventually(lambda: arrived["worker-heartbeat"])
        for _ in range(MANY):
            another_app.send_task(REFRESH_DUE, args=[0], queue=SWEEP)
        expected = {"task-received": MANY, "task-started": MANY, "task-succeeded": MANY}
        eventually(lambda: {kind: n for kind, n in arrived.items() if kind.startswith("task-")} == expected)


def test_flower_shows_workers_and_tasks_by_id_and_no_secret(
    programs: Programs, fleet: Fleet, another_app: Celery, environment: dict[str, str]
) -> None:
    url, login = f"http://127.0.0.1:{free_port()}", f"operator:{secrets.token_urlsafe(9)}"
    flower = programs.start(
        "flower",
        "--address=127.0.0.1",
        f"--port={url.rpartition(':')[2]}",
        variables={"FLOWER_BASIC_AUTH": login, "FLOWER_READ_ONLY": "true"},
    )
    programs.ready_worker()
    flower.wait_for("Connected to redis")
    connected = fleet.connect(3)

    def page(path: str) -> str:
        """Return what Flower answers to somebody who has logged in; empty while it is starting."""
        asked = urllib.request.Request(f"{url}{path}", headers={"Authorization": f"Basic {encoded(login)}"})  # noqa: S310  # loopback
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310  # loopback
                return str(answer.read().decode())
        except urllib.error.URLError:
            return ""

    def tasks() -> dict[str, dict[str, Any]]:
        answered: dict[str, dict[str, Any]] = json.loads(page("/api/tasks") or "{}")
        return answered

    # What it has of a worker includes that worker's configuration.
    eventually(lambda: "broker_url" in page("/api/workers?refresh=1"))
    asked = [another_app.send_task(REFRESH_CONNECTION, args=[each.id], queue="qbo.adhoc") for each in connected]
    for each in asked:
        assert each.get(timeout=60)["outcome"] == "refreshed"
    eventually(lambda: [task["state"] for task in tasks().values()].count("SUCCESS") == 3)
    shown = tasks()
    assert set(shown) == {each.id for each in asked}
    for each, one in zip(asked, connected, strict=True):
        assert shown[each.id]["name"] == REFRESH_CONNECTION
        assert shown[each.id]["args"] == f"[{one.id}]"
    # The sweep's own attempts store no result, and Flower tells all the same how they went.
    (due,) = fleet.connect()
    swept = another_app.send_task(REFRESH_DUE, args=[due.id], queue=SWEEP)
    eventually(lambda: "'outcome': 'refreshed'" in str(tasks().get(swept.id, {}).get("result")))
    # A host's sync that a pause has skipped. Fails without `send_event` in SyncTask: seen, it is STARTED for ever.
    fleet.db.execute("INSERT INTO qbo.sync_holds (connection_id, reason) VALUES (%(id)s, 'operator')", {"id": due.id})
    start_host(programs, environment)
    skipped = another_app.send_task("host.sync", args=[due.id], queue="host")
    eventually(lambda: tasks().get(skipped.id, {}).get("state") == "IGNORED")
    assert tasks()[skipped.id]["result"] == "operator"
    assert set(json.loads(page("/api/tasks?state=IGNORED"))) == {skipped.id}
    assert "IGNORED" in page(f"/task/{skipped.id}")
    asked.append(skipped)
    pages = ["/api/tasks", "/api/workers", "/tasks", "/workers", *(f"/task/{each.id}" for each in asked)]
    everything = "".join(page(path) for path in pages)
    assert all(each.id in everything for each in asked)
    assert_without_secrets(everything, fleet.simulator)
    assert environment["REDIS_URL"] not in everything
    assert PASSWORD not in everything


def start_host(programs: Programs, environment: dict[str, str]) -> None:
    """Start a worker of a host's, on the same broker."""
    known = host_variables(environment)
    variables = {name: known[name] for name in ("QBO_DATABASE_URL", "QBO_CLIENT_KEYS")} | {
        "HOST_BROKER_URL": as_user(environment["REDIS_URL"], HOST),
        "HOST_NOTES": os.devnull,
    }
    options = ("-P", "threads", "-c", "1", "-E", "-Q", "host", "-n", "host@%h", "-l", "INFO")
    wait_until_ready(programs.start("worker", *options, app="tests.system.host_app", variables=variables))


def encoded(login: str) -> str:
    return base64.b64encode(login.encode()).decode()
