from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from celery.app.defaults import NAMESPACES, flatten

import beat_schedule
from qbo_refresh import sealing
from qbo_refresh.event_message import EventMessage
from qbo_refresh.secret import Secret
from worker import arguments, clock, messages, queues
from worker import settings as worker_settings
from worker.settings import EventTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

# Celery takes a misspelt option in silence, so the options are asserted here, and that they exist.


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    """Give the app of a made-up configuration; making it connects to nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBO_REDIS_URL", "redis://127.0.0.1:1/0")
        patch.setenv("QBO_LOOKUP_KEY", sealing.new_key())
        worker_settings.load.cache_clear()
        from worker import app as worker_app  # noqa: PLC0415  # importing it reads the environment

        made = worker_app.make(worker_settings.read())
        worker_app.app.loader.import_default_modules()
        yield made
        worker_settings.load.cache_clear()


@pytest.fixture(scope="module")
def tasks(app: Celery) -> dict[str, Any]:  # noqa: ARG001  # it has read the environment
    """Give the tasks that the worker registers."""
    from worker import app as worker_app  # noqa: PLC0415  # as above

    return {name: task for name, task in worker_app.app.tasks.items() if not name.startswith("celery.")}


def test_every_option_is_one_that_celery_knows(app: Celery) -> None:
    known = {str(option[0]) for option in flatten(NAMESPACES)} | {"include", "broker_url", "result_backend"}
    given = set(app.conf.changes or ()) - {"deprecated_settings"}  # a note of Celery's own
    assert given
    assert given - known == set()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("accept_content", ["json"]),
        ("task_serializer", "json"),
        ("result_serializer", "json"),
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("worker_prefetch_multiplier", 2),
        ("task_default_queue", "qbo.adhoc"),
        ("broker_connection_retry_on_startup", True),
        ("broker_connection_max_retries", None),
        ("enable_utc", True),
        ("task_ignore_result", False),
        ("worker_cancel_long_running_tasks_on_connection_loss", False),
    ],
)
def test_the_options_that_the_protocol_relies_on(app: Celery, option: str, value: object) -> None:
    assert app.conf[option] == value


def test_our_unacknowledged_messages_have_keys_of_our_own(app: Celery) -> None:
    options = app.conf.broker_transport_options
    names = {options[name] for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key")}
    assert len(names) == 3
    assert all(name.startswith("qbo.") for name in names)
    assert "retry_on_timeout" not in options, "it turns Producer.batch off in silence"


def test_a_message_is_redelivered_only_long_after_the_longest_task(app: Celery) -> None:
    assert app.conf.broker_transport_options["visibility_timeout"] >= 600


def test_the_queues_are_the_public_ones_and_each_goes_to_itself(app: Celery) -> None:
    assert {queue.name for queue in app.conf.task_queues} == {"qbo.sweep", "qbo.adhoc", "qbo.events"}
    for queue in app.conf.task_queues:
        assert (queue.exchange.name, queue.routing_key) == (queue.name, queue.name)


def test_beat_sends_only_tasks_that_exist_to_queues_that_are_consumed(app: Celery, tasks: dict[str, Any]) -> None:
    assert app.conf.beat_schedule
    for entry in app.conf.beat_schedule.values():
        assert set(entry) <= {"task", "schedule", "options", "args", "kwargs"}
        assert entry["task"] in tasks
        assert entry["options"]["queue"] in queues.ALL
        assert "expires" not in entry["options"], "it trusts the wall clock"
        assert 0 < entry["schedule"] <= 24 * 3600


def test_the_sweep_follows_the_configured_period(app: Celery) -> None:
    assert app.conf.beat_schedule["dispatch-due"]["schedule"] == worker_settings.read().sweep_seconds
    assert beat_schedule.BEAT_SCHEDULE["dispatch-due"]["schedule"] == 60.0


def test_no_task_retries_by_itself_or_is_dropped_by_a_clock(tasks: dict[str, Any]) -> None:
    assert {queues.REFRESH_CONNECTION, queues.REFRESH_DUE, queues.DISPATCH_DUE, queues.DELIVER_EVENTS} <= set(tasks)
    for task in tasks.values():
        assert not hasattr(task, "autoretry_for") or not task.autoretry_for
        assert task.expires is None
        assert (task.acks_late, task.reject_on_worker_lost) == (True, True)


def test_sweep_messages_keep_no_result(tasks: dict[str, Any]) -> None:
    assert tasks["worker.tasks.refresh_due"].ignore_result
    assert tasks["worker.tasks.dispatch_due"].ignore_result
    assert tasks["worker.tasks.deliver_events"].ignore_result
    assert not tasks["worker.tasks.refresh_connection"].ignore_result


def test_a_sweeps_refreshes_go_to_its_queue(app: Celery) -> None:
    route = app.amqp.router.route({}, queues.REFRESH_DUE)
    assert route["queue"].name == "qbo.sweep"


@pytest.mark.parametrize("connection_id", ["7", None, True, 7.0, [7]])
def test_a_connection_is_named_by_a_number_and_nothing_else(tasks: dict[str, Any], connection_id: object) -> None:
    with pytest.raises(TypeError, match="connection_id"):
        tasks["worker.tasks.refresh_connection"].before_start("id", [connection_id], {})


def test_every_task_is_one_that_messages_may_call_and_every_argument_is_looked_at(tasks: dict[str, Any]) -> None:
    # Another test of this process may have made tasks that Celery shares with every app.
    assert {name for name in tasks if name.startswith("worker.")} == queues.TASKS
    for name in queues.TASKS:
        taken = inspect.signature(tasks[name].run)
        good: dict[str, object] = {each: "text" if each == "external_id" else 1 for each in taken.parameters}
        assert arguments.fault(taken, [], good) is None, name
        for each in good:
            assert str(arguments.fault(taken, [], good | {each: object()})).startswith(f"{each} must be"), name


def test_a_worker_takes_its_own_messages(app: Celery) -> None:
    assert messages.fault_of_ours(app, now=clock.now()) is None


def test_an_event_that_is_sent_twice_is_the_same_task_twice_and_shows_no_arguments(tasks: dict[str, Any]) -> None:
    from worker.tasks import _task_message  # noqa: PLC0415  # importing it reads the environment

    assert tasks
    target = EventTarget("host.on_event", "host", Secret("redis://"))
    events = [
        EventMessage(
            id=event_id,
            type="sync.paused",
            connection_id=3,
            external_ids=["acme"],
            label="eu",
            sequence=1,
            created_at="2026-01-01T00:00:00.000Z",
            payload={},
        )
        for event_id in (7, 7, 8)
    ]
    first, again, other = (_task_message(target, event) for event in events)
    assert first.headers["id"] == again.headers["id"] != other.headers["id"]
    assert first.headers["argsrepr"] == "(event 7, sync.paused)"
    assert (first.headers["task"], first.headers["ignore_result"]) == ("host.on_event", True)
    assert first.body[0] == (events[0],)
