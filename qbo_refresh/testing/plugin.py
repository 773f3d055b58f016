"""Fixtures for a host that tests with pytest: `pytest_plugins = ["qbo_refresh.testing.plugin"]` in its conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbo_refresh import testing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intuit_simulator import Simulator, StartedSimulator
    from qbo_refresh.testing import FakeConnections


@pytest.fixture
def qbo_connections() -> Iterator[FakeConnections]:
    """Give connections in memory, on which every call of qbo_refresh works for the length of the test."""
    with testing.fake() as connections:
        yield connections


@pytest.fixture(scope="session")
def started_intuit_simulator() -> Iterator[StartedSimulator]:
    """Give this session's own simulator of Intuit; it needs the extra `simulator`."""
    import intuit_simulator  # noqa: PLC0415  # only who asks for it needs the extra

    with intuit_simulator.start() as running:
        yield running


@pytest.fixture
def intuit_simulator(started_intuit_simulator: StartedSimulator) -> Simulator:
    """Give the simulator as it was started: without grants, faults and journal."""
    started_intuit_simulator.reset()
    return started_intuit_simulator
