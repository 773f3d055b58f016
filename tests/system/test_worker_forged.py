"""Messages that no host of ours has sent: pickled, malformed, with arguments that mean harm."""

from __future__ import annotations

import base64
import json
import os
import pickle
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.support.processes import PATIENCE_S, Programs, eventually
from worker.queues import ADHOC, REFRESH_CONNECTION

if TYPE_CHECKING:
    from pathlib import Path

    import redis
    from celery import Celery

    from tests.support.fleet import Fleet


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._file}",)


def message(body: bytes, *, content_type: str, task: object = REFRESH_CONNECTION) -> str:
    """Return what kombu would put into Redis."""
    tag = str(uuid4())
    delivery = {"exchange": "", "routing_key": ADHOC}
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary" if "pickle" in content_type else "utf-8",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": tag, "root_id": tag},
            "properties": {
                "correlation_id": tag,
                "delivery_mode": 2,
                "delivery_info": delivery,
                "delivery_tag": tag,
                "body_encoding": "base64",
            },
        }
    )


def test_a_pickled_message_is_refused_unread_and_forged_ones_do_nothing(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis, tmp_path: Path
) -> None:
    # With pickle among `accept_content` Celery does not even start as root; as another user the file would be made.
    made = tmp_path / "made"
    worker = programs.ready_worker(threads=2)
    (connected,) = fleet.connect()
    pickled = pickle.dumps(((_Touch(made),), {}, {}))
    arguments = [["1; DROP TABLE qbo.connections"], [{"$ne": 1}], [[1, 2]], [-1], [2**63], [], [1, 2, 3, 4]]
    forged = [
        message(pickled, content_type="application/x-python-serialize"),
        message(pickled, content_type="application/json"),
        message(b"[[1], {}", content_type="application/json"),
        message(b"[" * 100_000, content_type="application/json"),
        message(b"[[1], {}, {}]", content_type="application/json", task="os.system"),
        *(message(json.dumps([each, {}, {}]).encode(), content_type="application/json") for each in arguments),
        message(b'[[1], {"max_age": "now(); --", "min_ttl": []}, {}]', content_type="application/json"),
        message(b'[[1], {"max_age": 1e308}, {}]', content_type="application/json"),
    ]
    for each in forged:
        valkey.lpush(ADHOC, each)
    eventually(lambda: valkey.llen(ADHOC) == 0)
    assert not made.exists()
    answer = another_app.send_task(REFRESH_CONNECTION, args=[connected.id], queue=ADHOC)
    assert answer.get(timeout=PATIENCE_S)["outcome"] == "refreshed", worker.output()[-2000:]
    assert not made.exists()
    assert fleet.simulator.check().refreshes == 1
    assert fleet.holds_the_live_token(connected)
