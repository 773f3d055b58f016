"""Messages that no host of ours has sent: pickled, malformed, with arguments that mean harm, with calls of others."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from tests.support.processes import PATIENCE_S, Program, Programs, eventually
from worker import queues
from worker.queues import ADHOC, DISCONNECT, EXCHANGE, REFRESH_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import redis
    from celery import Celery

    from tests.support.fleet import Fleet

SQL = "'; DROP TABLE qbo.connections; --"
ESCAPE = "\x1b[2J"
FAR = "2999-01-01T00:00:00+00:00"
DEEP = "[" * 100_000
BY_ID = (REFRESH_CONNECTION, queues.REFRESH_DUE, EXCHANGE, DISCONNECT, queues.DISCONNECT_HINT)
_TABLES = (
    "connections outbox sync_holds candidates refresh_attempts authorizations external_ids revocations missed_runs"
)


Part: TypeAlias = "Mapping[str, object]"
_NO_OTHERS: Part = {}


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._file}",)


def message(
    body: object,
    *,
    task: str = REFRESH_CONNECTION,
    headers: Part = _NO_OTHERS,
    properties: Part = _NO_OTHERS,
    parts: Part = _NO_OTHERS,
) -> str:
    """Return what kombu would put into Redis: a body in JSON, or bytes as they are, and by name what is to differ."""
    tag = str(uuid4())
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = {
        "body": base64.b64encode(content).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": tag, "root_id": tag, **headers},
        "properties": {
            "correlation_id": tag,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": ADHOC},
            "delivery_tag": tag,
            "body_encoding": "base64",
            **properties,
        },
        **parts,
    }
    return json.dumps(whole)


# What none of them may be, and the word for it.
BODIES: list[object] = [
    [[1], {}],
    [],
    None,
    b"",
    7,
    {"task": REFRESH_CONNECTION, "id": "1", "args": [1], "kwargs": {}},
    b"[[1], {}",
    DEEP.encode(),
    b"[[1" + b"0" * 5000 + b"], {}, {}]",
    b"\xff\x00",
    [1, {}, {}],
    [[1], [], {}],
    [[1], {}, [1]],
    [[1], {}, "ab"],
    [[1], {}, {"delivery_info": 5}],
    [[{"__type__": "decimal", "__value__": "x"}], {}, {}],
    [[{"__type__": "uuid", "__value__": {"hex": 5}}], {}, {}],
]
INFLATING = [zlib.compress(b" " * (10 << 20) + b"[[1], {}, {}]"), zlib.compress(b"[[1], {}, {}]")[:-5]]
HARM: dict[str, object] = {"task": "host.harm", "args": [], "kwargs": {}, "options": {"queue": "elsewhere"}}
CALLS: list[tuple[str, object]] = [
    (name, value) for name in ("callbacks", "errbacks", "chain", "chord") for value in ([HARM], 5)
]
HEADERS: list[tuple[str, object]] = [
    ("eta", "x"),
    ("eta", 5),
    ("eta", "9999-12-31T23:59:59-23:59"),
    ("expires", "x"),
    ("expires", ["2001-01-01"]),
    ("retries", "x"),
    ("retries", True),
    ("timelimit", 5),
    ("timelimit", [1, 2, 3]),
    ("timelimit", [10**400, None]),
    ("timelimit", ["a", "b"]),
    ("shadow", f"{ESCAPE}\nforged"),
    ("group", [1]),
    ("root_id", {}),
    ("stamped_headers", 5),
    ("stamps", {"a": 1}),
    ("ignore_result", "x"),
    ("compression", "application/zstd"),
    ("get", 5),
    ("update", None),
    ("is_eager", True),
]
OTHER_HEADERS: list[tuple[str, object, str]] = [
    ("eta", FAR, "eta"),
    *(("id", each, "id") for each in ("", f"{ESCAPE}\nforged", "x" * 1000)),
    ("id", None, "shape"),
    ("id", [1], "shape"),
    ("task", None, "shape"),
    ("task", 5, "shape"),
    ("task", [1], "shape"),
    *(("task", each, "unknown_task") for each in ("os.system", "", ESCAPE, "celery.group", "celery.starmap")),
]
PROPERTIES: list[tuple[str, object]] = [
    ("body_encoding", "nope"),
    ("body_encoding", []),
    ("delivery_tag", 5),
    ("delivery_tag", [1]),
    ("delivery_tag", None),
    ("delivery_tag", ""),
    ("delivery_info", None),
    ("delivery_info", 5),
    ("delivery_info", {"exchange": "", "routing_key": ADHOC, "consumer_tag": []}),
]
PARTS: list[tuple[str, object, str]] = [
    ("headers", None, "shape"),
    ("headers", [1], "shape"),
    ("headers", "abc", "shape"),
    ("headers", {}, "shape"),
    ("properties", None, "shape"),
    ("properties", 5, "shape"),
    ("properties", {}, "shape"),
    ("body", None, "shape"),
    ("body", 5, "shape"),
    ("body", [1], "shape"),
    *(("body", each, "body") for each in ("!!!", "a", "\0")),
    *(("content-type", each, "shape") for each in (None, "", "application/x-yaml", "application/x-python-serialize")),
    ("content-type", 5, "shape"),
    *(("content-encoding", each, "shape") for each in (None, "", "rot13", "binary")),
    ("content-encoding", 5, "shape"),
]
WHOLES: list[tuple[str | bytes, str]] = [
    *((each, "shape") for each in ("null", "[]", '"a"', "7", "{}")),
    *((each, "not_json") for each in ("not json", "", DEEP, "1" * 5000)),
    (b"\xff\xfe\x00", "not_json"),
    ('{"__type__": "uuid", "__value__": {"hex": 5}}', "not_json"),
]


def refused(connection_id: int, made: Path) -> list[tuple[str | bytes, str]]:
    """Return messages that must not get to Celery, each with the word that names what is wrong with it."""
    good: list[object] = [[connection_id], {}, {}]
    pickled = pickle.dumps(((_Touch(made),), {}, {}))
    return [
        *((message(body, task=task), "body") for task, body in product(sorted(queues.TASKS), BODIES)),
        *((message([[connection_id], {}, {name: value}]), "calls") for name, value in CALLS),
        *((message(good, headers={name: value}), "calls") for name, value in CALLS),
        *((message(good, headers={name: value}), "header") for name, value in HEADERS),
        *((message(good, headers={name: value}), word) for name, value, word in OTHER_HEADERS),
        *((message(good, properties={name: value}), "shape") for name, value in PROPERTIES),
        *((message(good, parts={name: value}), word) for name, value, word in PARTS),
        (message(pickled, parts={"content-type": "application/x-python-serialize"}), "shape"),
        (message(pickled), "body"),
        *((message(body, headers={"compression": "application/x-gzip"}), "body") for body in (good, *INFLATING)),
        *WHOLES,
    ]


def tables(fleet: Fleet) -> dict[str, list[tuple[Any, ...]]]:
    """Return what is in every table that a task may change."""
    return {
        name: [tuple(row) for row in fleet.db.execute(f"SELECT * FROM qbo.{name} ORDER BY 1").all()]  # noqa: S608
        for name in _TABLES.split()
    }


def put(valkey: redis.Redis, worker: Program, messages: list[str | bytes]) -> str:
    """Have a worker take all of these and return what it says of them, once none is left anywhere."""
    before = len(worker.output())
    last = message([[0], {}, {}])
    result = f"celery-task-meta-{json.loads(last)['headers']['id']}"
    valkey.lpush(ADHOC, *messages, last)

    def is_through() -> bool:
        assert worker.is_running, worker.output()[-2000:]
        left = valkey.llen(ADHOC) + valkey.hlen("qbo.unacked") + valkey.zcard("qbo.unacked_index")
        return bool(valkey.exists(result)) and left == 0

    eventually(is_through, what="taken and acknowledged")
    valkey.delete(result)
    return worker.output()[before:]


def served(app: Celery, fleet: Fleet, valkey: redis.Redis) -> bool:
    """Tell whether a message is still answered that has all that an ordinary publisher may add."""
    (connected,) = fleet.connect()
    answer = app.send_task(
        REFRESH_CONNECTION,
        args=[connected.id],
        queue=ADHOC,
        countdown=0.01,
        expires=60,
        time_limit=600,
        soft_time_limit=500,
        shadow="a refresh",
        priority=3,
        compression="gzip",
        reply_to="elsewhere",
        group_id=str(uuid4()),
        headers={
            "traceparent": "00-1-2-01",
            "headers": {"sentry-trace": "1-2-1"},
            **dict.fromkeys(("correlation_id", "hostname", "args", "kwargs", "properties", "delivery_info"), 5),
        },
    )
    refreshed = answer.get(timeout=PATIENCE_S)["outcome"] == "refreshed"
    return refreshed and fleet.holds_the_live_token(connected) and not valkey.exists("elsewhere")


def test_a_message_that_celery_would_stumble_over_is_refused_in_a_line_and_changes_nothing(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis, tmp_path: Path
) -> None:
    # With pickle among `accept_content` Celery does not even start as root; as another user the file would be made.
    made = tmp_path / "made"
    worker = programs.ready_worker(threads=2)
    (connected,) = fleet.connect()
    before, keys = tables(fleet), set(valkey.keys())
    forged = refused(connected.id, made)
    said = put(valkey, worker, [each for each, _ in forged])
    assert worker.says(r"message\.refused (.*)") == [f"queue={ADHOC} reason={word}" for _, word in forged]
    assert len(said.splitlines()) == len(forged) + 2, "one line each, and two of the call that ends them"
    assert ESCAPE not in worker.output()
    assert not made.exists()
    assert tables(fleet) == before
    assert set(valkey.keys()) == keys, "nothing is published"
    assert fleet.simulator.check().refreshes == 0
    assert served(another_app, fleet, valkey), worker.output()[-2000:]


def wrong_calls(connection_id: int) -> Iterator[tuple[str, list[object], dict[str, object]]]:
    """Yield calls that no task takes: its name, arguments and arguments by name."""
    no_ids: list[object] = ["1", SQL, f"\0{ESCAPE}\n", "RT1-secret", None, True, 1.0, {"$ne": 1}, [1, 2]]
    no_durations: list[object] = ["now(); --", [], True, -1, 1e308, float("nan"), float("inf"), 10**400]
    no_texts: list[object] = [5, ["a"], {}, True]
    for task in BY_ID:
        yield task, [], {}
        for each in no_ids:
            yield task, [each], {}
    for task in sorted(queues.TASKS):
        yield task, [connection_id, None, 3, 4], {}
        yield task, [], {ESCAPE: 1, "RT1-secret": 2}
    for each in no_durations:
        yield REFRESH_CONNECTION, [connection_id], {"max_age": each}
        yield REFRESH_CONNECTION, [connection_id], {"min_ttl": each}
    yield REFRESH_CONNECTION, [connection_id], {"max_age": None}
    for each in no_texts:
        yield DISCONNECT, [connection_id, each], {}


def test_a_call_with_arguments_that_a_task_does_not_take_fails_in_a_line_and_changes_nothing(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis
) -> None:
    worker = programs.ready_worker(threads=2)
    (connected,) = fleet.connect()
    before = tables(fleet)
    calls = list(wrong_calls(connected.id))
    put(valkey, worker, [message([args, kwargs, {}], task=task) for task, args, kwargs in calls])
    told = worker.says(r"task\.refused task=(\S+) reason=.+")
    assert sorted(told) == sorted(task for task, *_ in calls)
    assert worker.says(r"Traceback|ERROR|CRITICAL") == []
    assert ESCAPE not in worker.output()
    assert tables(fleet) == before
    assert fleet.simulator.check().refreshes == 0
    assert served(another_app, fleet, valkey)


def test_a_call_for_what_is_not_there_changes_nothing(
    programs: Programs, fleet: Fleet, another_app: Celery, valkey: redis.Redis
) -> None:
    worker = programs.ready_worker(threads=2)
    (connected,) = fleet.connect()
    fleet.db.execute("INSERT INTO qbo.external_ids VALUES ('acme', %(id)s)", {"id": connected.id})
    before = tables(fleet)
    texts = [SQL, ESCAPE, "a\0b", "\ud800", "%s %(x)s", "{}", "\\", '"', "", "Acme"]
    put(
        valkey,
        worker,
        [
            *(message([[each], {}, {}], task=task) for task, each in product(BY_ID, [0, -1, 2**31, 2**63, 10**30])),
            *(message([[connected.id, each], {}, {}], task=DISCONNECT) for each in texts),
            message([[connected.id], {}, {}], headers={"expires": "2001-01-01T00:00:00+00:00"}),
        ],
    )
    assert worker.says(r"Traceback|ERROR|CRITICAL") == []
    assert tables(fleet) == before
    assert fleet.simulator.check().refreshes == 0
    assert served(another_app, fleet, valkey)
