from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.attempts import Attempts

if TYPE_CHECKING:
    from worker.refresh import Refresher


@pytest.fixture
def one(refresher: Refresher) -> Attempts:
    """Give a worker's attempts, step by step."""
    return Attempts(refresher)


@pytest.fixture
def other(second_refresher: Refresher) -> Attempts:
    """Give another worker's attempts."""
    return Attempts(second_refresher)
