"""What a message to a worker may look like. One that looks otherwise never gets to Celery.

Celery (5.7) trusts what is in its broker: a body of two parts, a number for a header or a list for a name ends its
consumer, which then gives the message back for the next worker to end on; other shapes stay unacknowledged for good;
and what a message asks to be called afterwards, the worker publishes in its own name. Whoever may write to `qbo.adhoc`
could do all that.
"""

from __future__ import annotations

import base64
import threading
import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kombu import Connection
from kombu.utils.json import dumps, loads

from worker import queues

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

# Redis gives an unacknowledged message to somebody else after it; so a message may not wait in a worker for longer.
VISIBLE_AFTER = timedelta(hours=1)

_ID_LENGTH = 255
_LARGEST_INFLATED = 1 << 16
# What decompression, JSON, and kombu's own types in it, can raise over bytes from outside.
_UNREADABLE = (
    *(zlib.error, OSError, EOFError, ImportError),
    *(ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RecursionError),
)


def fault(raw: bytes, *, now: datetime) -> str | None:
    """Return in a word what is wrong with a message as it came out of Redis, or None if it is a call of a task of ours.

    Args:
        now: By this machine's clock: it decides nothing but whether a message would wait for too long.
    """
    try:
        message = loads(raw)
    except _UNREADABLE:
        return "not_json"
    match message:
        case {
            "body": str(body),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": str(task), "id": str(task_id)} as headers,
            "properties": {
                "delivery_tag": str(tag),
                "body_encoding": "base64",
                "delivery_info": {"exchange": str(), "routing_key": str()} as delivery,
            },
        } if tag and "consumer_tag" not in delivery:
            if task not in queues.TASKS:
                return "unknown_task"
            if not task_id or not _is_text(task_id):
                return "id"
            return _fault_of_headers(headers, now) or _fault_of_body(body, headers.get("compression"))
    return "shape"


def fault_of_ours(app: Celery, *, now: datetime) -> str | None:
    """Return what `fault` says of a message that this process itself publishes, as this Celery makes it."""
    with Connection("memory://") as connection:
        app.send_task(
            queues.REFRESH_DUE, args=[1], queue=queues.SWEEP, connection=connection, ignore_result=True, retry=False
        )
        channel: Any = connection.default_channel
        return fault(dumps(channel._get(queues.SWEEP)).encode(), now=now)  # noqa: SLF001  # as it lies in a queue


def _fault_of_headers(headers: dict[str, Any], now: datetime) -> str | None:
    for name, value in headers.items():
        if name in _METHODS or not (value is None or _MAY_BE.get(name, _is_anything)(value)):
            return "calls" if name in _CALLS else "header"
    return None if _is_near(headers.get("eta"), now) else "eta"


def _fault_of_body(body: str, compression: str | None) -> str | None:
    try:
        encoded = base64.b64decode(body, validate=True)
        content = loads(encoded if compression is None else _inflated(encoded, compression))
    except _UNREADABLE:
        return "body"
    match content:
        case [list(), dict(), None]:
            return None
        case [list(), dict(), dict(embedded)]:
            if any(map(embedded.get, _CALLS)):
                return "calls"
            # Celery has each replace what its request has of that name, with whatever value.
            return "body" if any(embedded.values()) or embedded.keys() & _METHODS else None
    return "body"


def _inflated(deflated: bytes, compression: str) -> bytes:
    inflater = _INFLATERS[compression]()
    inflated: bytes = inflater.decompress(deflated, _LARGEST_INFLATED)
    # What comes behind the end, kombu would go on with.
    if not inflater.eof or inflater.unused_data:
        raise ValueError("cut, or larger than any message of ours")
    return inflated


def _is_near(eta: str | None, now: datetime) -> bool:
    if eta is None:
        return True
    moment = datetime.fromisoformat(eta)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now < VISIBLE_AFTER


def _is_anything(_: object) -> bool:
    return True


def _is_text(value: object) -> bool:
    """Tell whether it may stand in a line of the log."""
    return isinstance(value, str) and value.isprintable() and len(value) <= _ID_LENGTH


def _is_moment(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).year in _YEARS
    except ValueError:
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and 0 < value < threading.TIMEOUT_MAX)


def _are_limits(value: object) -> bool:
    return isinstance(value, list) and len(value) == len(("hard", "soft")) and all(map(_is_limit, value))


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_empty(value: object) -> bool:
    return value in ([], {})


def _is_nothing(value: object) -> bool:
    return not value


_YEARS = range(1970, 9000)  # within which no zone leads out of what a date can be
# What a publisher of Celery's protocol 2 puts there, besides `task` and `id`; anything may be null.
_MAY_BE: dict[str, Callable[[object], bool]] = {
    "shadow": _is_text,
    "eta": _is_moment,
    "expires": _is_moment,
    "group": _is_text,
    "group_index": _is_number,
    "retries": _is_number,
    "timelimit": _are_limits,
    "root_id": _is_text,
    "parent_id": _is_text,
    "argsrepr": _is_string,
    "kwargsrepr": _is_string,
    "origin": _is_text,
    "ignore_result": _is_flag,
    "replaced_task_nesting": _is_number,
    "stamped_headers": _is_empty,
    "stamps": _is_empty,
    "headers": _is_object,  # Sentry's and others' workaround for celery#4875
    "compression": lambda value: isinstance(value, str) and value in _INFLATERS,
}


def _bz2() -> Any:
    import bz2  # noqa: PLC0415  # a Python may be built without it

    return bz2.BZ2Decompressor()


# kombu undoes it without asking how much it becomes. A host may have set one for all of its tasks.
_INFLATERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": _bz2,
}
_CALLS = frozenset({"callbacks", "errbacks", "chain", "chord"})
# Headers become attributes of Celery's request (`celery.app.task.Context`) and replace its methods, even with null, and
# what it knows of itself. A list that is made, of all that it has, would refuse what another version publishes. Not
# here: `correlation_id`, `delivery_info`, …, which Celery itself replaces, or asks nobody for.
_METHODS = frozenset(
    {"as_execution_options", "clear", "get", "update", "_filter_x_death_headers", "_get_custom_headers"}
)
_MAY_BE |= dict.fromkeys(
    (*_CALLS, "is_eager", "called_directly", "_protected", "_children", "taskset", "utc"), _is_nothing
)
