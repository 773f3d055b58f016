"""The list of guards follows the code, and the runner tells what is missed from what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mutants.__main__ import ROOT, apply, try_out
from tests.mutants.guard import Guard
from tests.mutants.guards import GUARDS

if TYPE_CHECKING:
    from pathlib import Path

MODULE = "def answer():\n    return 42\n"
TESTS = "from module import answer\n\ndef test_it():\n    assert answer() == 42\n\ndef test_nothing():\n    pass\n"


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_once_where_the_list_says(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert guard.old != guard.new
    for test in guard.tests:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text() if name else (ROOT / path).exists()


def test_every_guard_has_a_name_of_its_own_and_there_are_enough_of_them() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) >= 30


@pytest.mark.parametrize(
    ("old", "test", "verdict"),
    [
        ("42", "test_it", "killed"),
        ("42", "test_nothing", "survived"),
        ("43", "test_it", "does not apply"),
        ("42", "test_gone", "no test ran"),
    ],
)
def test_the_runner_tells_killed_from_survived_and_puts_the_guard_back(
    tmp_path: Path, old: str, test: str, verdict: str
) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    (tmp_path / "test_module.py").write_text(TESTS)
    guard = Guard("a guard", "module.py", old, "41", (f"test_module.py::{test}",))
    assert try_out(guard, tmp_path).verdict == verdict
    assert (tmp_path / "module.py").read_text() == MODULE


def test_a_text_that_stands_twice_is_no_guard(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE * 2)
    assert apply(Guard("a guard", "module.py", "42", "41", ()), tmp_path) is None
