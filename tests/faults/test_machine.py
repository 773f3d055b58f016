"""Any order of what may happen to two connections, on PostgreSQL, Valkey and the simulator: DESIGN's promises hold.

A rule-based machine of Hypothesis (`tests/machine`) looks for a sequence that breaks an invariant. `FULL=1` looks for
MINUTES (4) under each policy, and elsewhere each time; `SHRINK=1` shortens what it finds.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.lives import Lives
from tests.machine.scene import KINDS
from tests.machine.stage import lanes
from tests.machine.world import Refused, World
from worker import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.consents import Consents
    from tests.support.fleet import Fleet
    from worker.runtime import Runtime
    from worker.settings import Settings

FULL = bool(os.environ.get("FULL"))
# To shorten what it found takes longer than to find it, and is done only on demand.
PHASES = [each for each in hypothesis.Phase if each is not hypothesis.Phase.shrink or os.environ.get("SHRINK")]


@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("policy", ["strict", "grace", "daily", "reuse-revokes"])
def test_whatever_the_order_of_faults_the_promises_hold(  # noqa: PLR0917  # fixtures
    fleet: Fleet,
    consents: Consents,
    start_worker: Callable[..., Runtime],
    settings: Settings,
    environment: dict[str, str],
    redis_url: str,
    policy: str,
) -> None:
    ran = Counter[str]()
    threads, refused = lanes(), Refused()
    with redis.Redis.from_url(redis_url) as valkey:
        here = type(
            "Here",
            (Lives,),
            {
                "world": World(
                    fleet, (start_worker(), start_worker()), settings, consents, valkey, threads, environment, refused
                ),
                "policy": policy,
                "ran": ran,
            },
        )
        chosen = hypothesis.settings(
            max_examples=20 if FULL else 7,
            stateful_step_count=30 if FULL else 8,
            deadline=None,
            database=None,
            print_blob=False,
            phases=PHASES,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        if not FULL:
            hypothesis.seed(policy)(here)  # the same each time, and another one for each policy
        began = time.monotonic()
        log.logger.addHandler(refused)
        try:
            run_state_machine_as_test(here, settings=chosen)
            while FULL and time.monotonic() < began + 60 * float(os.environ.get("MINUTES", "4")):
                run_state_machine_as_test(here, settings=chosen)
        finally:
            log.logger.removeHandler(refused)
            for each in threads:
                each.shutdown()
            sys.stderr.write(f"\n{policy}, {time.monotonic() - began:.1f} s: {dict(ran)}\n")
    assert [kind for kind in KINDS if not ran[kind]] == [], "a machine that never does it checks nothing of it"
