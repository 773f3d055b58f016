from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.roles import as_worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intuit_simulator import StartedSimulator


@pytest.fixture
def environment(owner_environment: dict[str, str]) -> dict[str, str]:
    """Give the variables of a worker under its role, in PostgreSQL and in Valkey. The test itself is the owner."""
    return as_worker(owner_environment)


@pytest.fixture(autouse=True)
def _intuit_never_sees_two_calls_at_once_with_one_token(simulator: StartedSimulator) -> Iterator[None]:
    """Promise 3, in every test of this folder."""
    yield
    simulator.clear_faults()
    assert simulator.check().overlapping == 0
