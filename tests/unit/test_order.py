from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.order import LONG, dealt

ROOT = Path(__file__).parents[2]


def collected(*, each: int) -> list[Any]:
    files = [*(f"tests/db/test_{n}.py" for n in range(9)), *LONG, *(f"tests/unit/test_{n}.py" for n in range(9))]
    return [SimpleNamespace(location=(file, n, "")) for file in files for n in range(each)]


def test_the_long_files_are_there() -> None:
    assert [file for file in LONG if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("each", [1, 3, 10])
def test_each_test_comes_once_and_each_share_begins_with_long_ones(processes: int, each: int) -> None:
    items = collected(each=each)
    found = dealt(items, processes=processes)
    assert sorted(map(id, found)) == sorted(map(id, items))
    begins, left = 0, len(found)
    for number in range(processes):
        assert found[begins].location[0] == LONG[number]
        size = left // (processes - number)
        begins, left = begins + size, left - size
