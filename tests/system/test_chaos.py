"""One minute of what `make chaos` does for five."""

from __future__ import annotations

import pytest

from tests.chaos import plan
from tests.chaos.run import run


@pytest.mark.timeout(300)
@pytest.mark.xdist_group("chaos")
def test_a_minute_of_chaos_loses_nothing_and_accuses_nobody() -> None:
    said: list[str] = []
    # Half the workers of `make chaos`, and half the kills, each of which is one more start: others need the CPU, too.
    planned = plan.make(seed=3, minutes=1, workers=4, kills_a_minute=32)
    outcome = run(planned, say=said.append)
    numbers = outcome.figures
    assert [(each.promise, each.words) for each in outcome.verdict.violations] == [], outcome.kept
    assert numbers["kills"] >= 30
    assert numbers["freezes_beyond_the_lease"] >= 8
    assert numbers["cuts"] >= 40
    assert numbers["refreshes"] >= numbers["connections"], "everybody once at the end, at least"
    assert numbers["overlapping_calls"] == 0
    assert numbers["events"] > 0
    assert numbers["nemesis_stumbled"] == []
    assert said[-1] == "Everything is mended; waiting until all is at rest."
