from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

import qbo_refresh
from qbo_refresh.status import Event
from tests.support.hosts import configured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.fleet import Connected, Fleet

_WRITE = "INSERT INTO qbo.outbox (connection_id, type) VALUES (%s, %s)"


@pytest.fixture
def connected(environment: dict[str, str], fleet: Fleet) -> Iterator[Connected]:
    with configured(environment):
        yield fleet.connect()[0]


def test_events_come_in_order_from_where_one_left_off_without_those_for_operators(
    connected: Connected, database_url: str
) -> None:
    assert qbo_refresh.events() == []
    with psycopg.connect(database_url) as writer:
        for event in (Event.SYNC_PAUSED, Event.APP_BLOCKED, Event.NEEDS_REAUTH, Event.SYNC_RESUMED):
            writer.execute(_WRITE, (connected.id, event))
    read = qbo_refresh.events(limit=2)
    assert [event.type for event in read] == ["sync.paused", "connection.needs_reauth"]
    assert [event.type for event in qbo_refresh.events(after=read[-1].id)] == ["sync.resumed"]
    assert all(event.connection_id == connected.id for event in read)


def test_an_event_that_is_committed_late_is_not_passed_over(
    fleet: Fleet, connected: Connected, database_url: str
) -> None:
    with psycopg.connect(database_url) as slow, psycopg.connect(database_url, autocommit=True) as quick:
        slow.execute(_WRITE, (connected.id, "drawn.first"))
        quick.execute(_WRITE, (connected.id, "committed.first"))
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.extend(event.type for event in qbo_refresh.events()))
        reader.start()
        reader.join(0.3)
        assert read == []
        slow.commit()
        reader.join()
    assert read == ["drawn.first", "committed.first"]
    assert fleet


def test_a_writer_that_does_not_end_keeps_events_back_and_nobody_waiting(
    connected: Connected, database_url: str
) -> None:
    with psycopg.connect(database_url) as slow, psycopg.connect(database_url, autocommit=True) as quick:
        slow.execute(_WRITE, (connected.id, "never"))
        quick.execute(_WRITE, (connected.id, "committed"))
        assert qbo_refresh.events() == []
        slow.rollback()
        assert [event.type for event in qbo_refresh.events()] == ["committed"]
