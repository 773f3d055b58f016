from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import policy, preview
from worker.policy import Guard
from worker.preview import WOULD_GO, Circumstances
from worker.store.dispatch import Gates
from worker.store.forecast import Part

NOW = datetime(2026, 11, 23, 18, 30, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
MET = Circumstances(
    budget=2500,
    stopped=None,
    here=frozenset({1, 2}),
    gates=Gates(usable=(1, 2)),
    waits={},
)


def due(app_id: int, connections: int, urgent: int = 0) -> Part:
    return Part(app_id, "due", None, connections, urgent, NOW)


def numbers(parts: list[Part], met: Circumstances) -> dict[tuple[int, str], int]:
    return {(group.app_id, group.reason): group.connections for group in preview.sort(parts, met)}


def test_a_large_app_does_not_make_a_small_one_wait() -> None:
    found = numbers([due(1, 90_000), due(2, 700)], MET)
    assert (found[1, WOULD_GO], found[2, WOULD_GO], found[1, "over_the_rate"]) == (1800, 700, 88_200)


def test_grants_that_die_soon_go_before_the_turns_of_the_apps() -> None:
    found = numbers([due(1, 5000, urgent=2400), due(2, 5000)], MET)
    assert (found[1, WOULD_GO], found[1, "over_the_rate"], found[2, "over_the_rate"]) == (2250, 2750, 4750)
    found = numbers([due(1, 5000, urgent=100), due(2, 5000)], MET)
    assert (found[1, WOULD_GO], found[2, WOULD_GO]) == (1500, 1000)


def test_a_probe_is_taken_from_the_rate() -> None:
    met = replace(MET, budget=1, gates=Gates(usable=(2,), probing=(1,)))
    found = numbers([due(1, 9), due(2, 9)], met)
    assert found == {(1, WOULD_GO): 1, (1, "blocked"): 8, (2, "over_the_rate"): 9}


@pytest.mark.parametrize("stopped", ["everything_frozen", "queue_full", "another_database"])
def test_what_stops_the_sweep_stops_what_is_due_and_nothing_else_changes(stopped: str) -> None:
    parts = [due(1, 5), Part(1, "frozen", None, 2, 0, None), Part(3, "due", None, 4, 0, NOW)]
    assert numbers(parts, replace(MET, stopped=stopped)) == {(1, stopped): 5, (1, "frozen"): 2, (3, "no_keys"): 4}


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3000), st.integers(0, 3000)), max_size=4, unique_by=lambda p: p[0]
    ),
    st.integers(1, 5000),
    st.sets(st.integers(1, 4)),
    st.sets(st.integers(1, 4)),
)
def test_every_connection_is_in_one_group_and_the_rate_holds(
    apps: list[tuple[int, int, int]], budget: int, here: set[int], usable: set[int]
) -> None:
    parts = [due(app_id, max(number, urgent, 1), urgent) for app_id, number, urgent in apps]
    met = replace(
        MET,
        budget=budget,
        here=frozenset(here),
        gates=Gates(usable=tuple(sorted(usable & here)), probing=tuple(sorted(here - usable))),
    )
    groups = preview.sort(parts, met)
    assert sum(group.connections for group in groups) == sum(part.connections for part in parts)
    assert all(group.connections > 0 for group in groups)
    # One probe an app goes whatever the rate is.
    assert sum(group.connections for group in groups if group.reason == WOULD_GO) <= max(budget, len(met.gates.probing))


@pytest.mark.parametrize(
    ("epoch_since", "released_at", "until"),
    [
        (None, None, None),
        (NOW - HOUR, None, NOW + 23 * HOUR),
        (NOW - 24 * HOUR, None, None),
        (NOW - HOUR, NOW - HOUR / 2, None),
        (NOW - HOUR, NOW - 2 * HOUR, NOW + 23 * HOUR),
    ],
)
def test_a_changed_database_makes_verdicts_wait_a_day_or_for_a_release_since(
    epoch_since: datetime | None, released_at: datetime | None, until: datetime | None
) -> None:
    assert policy.waits_until(epoch_since, Guard(None, released_at), now=NOW) == until
