from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.attempts import Attempts
from worker import settings as worker_settings
from worker.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.commands import Run
    from worker.refresh import Refresher


@pytest.fixture
def one(refresher: Refresher) -> Attempts:
    """Give a worker's attempts, step by step."""
    return Attempts(refresher)


@pytest.fixture
def other(second_refresher: Refresher) -> Attempts:
    """Give another worker's attempts."""
    return Attempts(second_refresher)


@pytest.fixture
def run(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Run]:
    """Give a function that runs a command of `qbo-refresh` and returns its status, output and errors."""
    for name, value in environment.items():
        monkeypatch.setenv(f"QBO_{name}", value)
    monkeypatch.chdir(tmp_path)
    worker_settings.load.cache_clear()

    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr()
        return int(str(ended.value.code)), printed.out, printed.err

    yield command
    worker_settings.load.cache_clear()
