"""`make mutants`: removes each guard in a copy of the tree, runs its tests there, and says whether it is missed."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

from tests.mutants.guards import GUARDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.mutants.guard import Guard

ROOT = Path(__file__).resolve().parents[2]
_FAILED, _PASSED = 1, 0  # pytest's exit statuses; any other is neither
_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one guard's removal.

    Attributes:
        verdict: `killed`; or what is wrong: `survived`, `does not apply` or `no test ran`.
    """

    name: str
    verdict: str
    seconds: float


def apply(guard: Guard, root: Path) -> str | None:
    """Remove a guard in a tree; return the file's text as it was, or None if the guard's is not in it once."""
    path = root / guard.file
    text = path.read_text()
    if text.count(guard.old) != 1:
        return None
    path.write_text(text.replace(guard.old, guard.new))
    return text


def try_out(guard: Guard, root: Path) -> Trial:
    """Remove a guard in a tree, run its tests, and put it back."""
    began = time.monotonic()
    before = apply(guard, root)
    if before is None:
        return Trial(guard.name, "does not apply", 0.0)
    try:
        status = run_tests(guard.tests, root)
    finally:
        (root / guard.file).write_text(before)
    verdict = {_FAILED: "killed", _PASSED: "survived"}.get(status, "no test ran")
    return Trial(guard.name, verdict, round(time.monotonic() - began, 1))


def run_tests(tests: Sequence[str], root: Path) -> int:
    """Return pytest's exit status; a run that hangs has failed."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, timeout=_LIMIT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return _FAILED


@contextmanager
def _copies(count: int) -> Iterator[Queue[Path]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        for number in range(count):
            copy = Path(directory) / str(number)
            for name in filter(None, listed):
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, copy / name)
            copies.put(copy)
        yield copies


def main(argv: Sequence[str] | None = None) -> int:
    """Try the guards and return 1 if one is not missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="the guards with this in their names")
    parser.add_argument("--jobs", type=int, default=2, help="so many at once (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each")
    arguments = parser.parse_args(argv)
    chosen = [guard for guard in GUARDS if arguments.only is None or arguments.only in guard.name]
    if not chosen:
        parser.error(f"no guard has {arguments.only!r} in its name")
    with _copies(arguments.jobs) as copies:
        root = copies.get()
        tests = sorted({test for guard in chosen for test in guard.tests})
        if run_tests(tests, root) != _PASSED:
            sys.stderr.write("The tests do not pass with all guards in place: nothing can be said of them.\n")
            return 2
        copies.put(root)

        def trial(guard: Guard) -> Trial:
            copy = copies.get()
            try:
                return try_out(guard, copy)
            finally:
                copies.put(copy)

        trials = []
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for each in pool.map(trial, chosen):
                trials.append(each)
                line = json.dumps(asdict(each)) if arguments.json else f"{each.verdict:>14}  {each.name}"
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
    missed = sum(each.verdict == "killed" for each in trials)
    sys.stderr.write(f"{missed} of {len(trials)} guards are missed when they are gone.\n")
    return 0 if missed == len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
