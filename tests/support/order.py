"""The order of a run on several processes: what takes longest begins first, and on different ones.

pytest-xdist gives each process a contiguous share of the tests and lets the idle take from the end of the longest
queue. A test of a minute at the end of one costs the whole run that minute.
"""

from __future__ import annotations

from itertools import chain, cycle, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

# Files of half a minute and more on two cores, the longest first. A file stays together: its tests share a stage.
LONG = (
    "tests/system/test_chaos.py",
    "tests/system/test_demo.py",
    "tests/system/test_example.py",
    "tests/system/test_run.py",
    "tests/system/test_example_in_a_browser.py",
    "tests/faults/test_host_sentry.py",
    "tests/system/test_cutover.py",
    "tests/system/test_worker_frozen.py",
    "tests/system/test_sync_task.py",
    "tests/system/test_beat_sweeps.py",
    "tests/faults/test_leaks.py",
)


def dealt(items: Sequence[pytest.Item], *, processes: int) -> list[pytest.Item]:
    """Return the tests so that each process's share begins with some of the long files."""
    files: dict[str, list[pytest.Item]] = {name: [] for name in LONG}
    others: list[pytest.Item] = []
    for item in items:
        files.get(item.location[0], others).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for share, name in zip(cycle([*shares, *reversed(shares)]), LONG, strict=False):
        share.extend(files[name])
    left, rest = len(items), iter(others)
    for number, share in enumerate(shares):
        size = left // (processes - number)
        share.extend(islice(rest, max(size - len(share), 0)))
        left -= size
    return [*chain.from_iterable(shares), *rest]
