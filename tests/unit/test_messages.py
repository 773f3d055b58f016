"""What a message to a worker may be, as the installed Celery makes it and as another one might."""

from __future__ import annotations

import base64
import bz2
import json
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from celery.app.task import Context
from kombu import Connection
from kombu.utils.json import dumps

from worker import messages, queues

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def published(**options: Any) -> dict[str, Any]:
    """Return what a host's Celery puts into a queue."""
    app = Celery("host", set_as_current=False)
    with Connection("memory://") as connection:
        app.send_task(queues.REFRESH_CONNECTION, args=[1], queue=queues.ADHOC, connection=connection, **options)
        channel: Any = connection.default_channel
        whole: dict[str, Any] = json.loads(dumps(channel._get(queues.ADHOC)))  # noqa: SLF001  # as it lies there
        return whole


def fault(whole: dict[str, Any]) -> str | None:
    return messages.fault(json.dumps(whole).encode(), now=NOW)


def with_embedded(**embedded: object) -> dict[str, Any]:
    whole = published()
    args, kwargs, own = json.loads(base64.b64decode(whole["body"]))
    whole["body"] = base64.b64encode(json.dumps([args, kwargs, own | embedded]).encode()).decode()
    return whole


def _is_callable(name: str) -> bool:
    return callable(getattr(Context, name))


ATTRIBUTES = sorted(name for name in dir(Context) if not name.startswith("__") and not _is_callable(name))
METHODS = sorted(name for name in dir(Context) if not name.startswith("__") and _is_callable(name))


@pytest.mark.parametrize("name", [*sorted(set(ATTRIBUTES) - {"id"}), "an_attribute_of_a_later_celery"])
def test_a_header_that_says_nothing_is_no_reason_to_refuse(name: str) -> None:
    # Seen to fail: what Celery's request has was refused, so that one attribute more would have been every message.
    whole = published()
    whole["headers"][name] = None
    assert fault(whole) is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [None, 5])
def test_a_header_that_would_replace_a_method_of_celerys_request_is_refused(name: str, value: object) -> None:
    whole = published()
    whole["headers"][name] = value
    assert fault(whole) == "header"
    assert fault(with_embedded(**{name: value})) == "body"


@pytest.mark.parametrize(
    "name", ["correlation_id", "reply_to", "hostname", "args", "kwargs", "properties", "delivery_info"]
)
def test_a_header_that_celery_replaces_itself_may_be_anything(name: str) -> None:
    # Hosts put a `correlation_id` there in `before_task_publish`.
    whole = published()
    whole["headers"][name] = 5
    assert fault(whole) is None


@pytest.mark.parametrize(
    ("embedded", "expected"),
    [
        ({"of_a_later_celery": None}, None),  # seen to fail
        ({"chain": []}, None),
        ({"of_a_later_celery": 5}, "body"),
        ({"delivery_info": {"a": 1}}, "body"),
        ({"chain": ["host.next"]}, "calls"),
        ({"chain": ["host.next"], "of_a_later_celery": 5}, "calls"),
    ],
)
def test_a_body_may_name_what_it_says_nothing_of(embedded: dict[str, object], expected: str | None) -> None:
    assert fault(with_embedded(**embedded)) == expected


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
}
GOOD = b"[[1], {}, {}]"


def compressed(body: bytes, name: str | None) -> dict[str, Any]:
    whole = published()
    whole["headers"]["compression"] = name
    whole["body"] = base64.b64encode(body).decode()
    return whole


@pytest.mark.parametrize("name", ["gzip", "bzip2"])
def test_a_host_may_compress_as_python_can(name: str) -> None:
    whole = published(compression=name)
    assert whole["headers"]["compression"] in COMPRESS
    assert fault(whole) is None


def test_a_compression_that_is_none_compresses_nothing() -> None:
    assert fault(compressed(GOOD, None)) is None


@pytest.mark.parametrize("name", COMPRESS)
def test_what_becomes_too_large_or_is_no_such_thing_is_refused(name: str) -> None:
    compress = COMPRESS[name]
    assert fault(compressed(compress(GOOD), name)) is None
    bodies = {
        "large": compress(b" " * (10 << 20) + GOOD),
        "large behind its end": compress(GOOD) + compress(b" " * (10 << 20)),
        "cut": compress(GOOD)[:-5],
        "empty": b"",
        "not compressed": GOOD,
        "large and cut": compress(b" " * (10 << 20))[:-5],
    }
    for what, body in bodies.items():
        assert fault(compressed(body, name)) == "body", what


@pytest.mark.parametrize(
    "name", ["application/zstd", "application/x-lzma", "application/x-brotli", "gzip", "", 5, [], {}]
)
def test_another_compression_is_refused(name: Any) -> None:
    assert fault(compressed(GOOD, name)) == "header"
