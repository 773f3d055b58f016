"""Whatever fails in this folder, fails under the rights that `qbo-refresh roles` gives a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from sqlalchemy.exc import ProgrammingError

from tests.support.roles import WORKER

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.database import Database
    from worker.runtime import Runtime


def test_a_worker_of_these_tests_has_no_other_rights_and_the_test_itself_has_all(
    start_worker: Callable[..., Runtime], database: Database
) -> None:
    worker = start_worker()
    assert worker.db.execute("SELECT current_user AS it").one().it == WORKER
    assert database.execute("SELECT current_user AS it").one().it != WORKER
    with pytest.raises(ProgrammingError, match="InsufficientPrivilege"):
        worker.db.execute("DROP TABLE qbo.connections")
    with redis.Redis.from_url(worker.settings.redis()) as valkey, pytest.raises(redis.exceptions.NoPermissionError):
        valkey.flushall()
