"""What a message to a worker may be, as the installed Celery makes it and as another one might."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from kombu import Connection
from kombu.utils.json import dumps

from worker import messages, queues

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
