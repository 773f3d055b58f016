"""How the demo is shown: live on a terminal, a line now and then elsewhere. Decides nothing."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qbo_refresh.status import Outcome, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from worker.demo.watch import Attempt, Snapshot

_LINE_EVERY_S = 2.0
_COLOURS = {
    Outcome.REFRESHED: "green",
    Outcome.DEFERRED: "yellow",
    Outcome.SUSPECT: "magenta",
    Outcome.NEEDS_REAUTH: "red",
    Outcome.ABANDONED: "yellow",
}
_NUMBER_COLOURS: dict[str, str] = {
    Status.ACTIVE: "green",
    Status.SUSPECT: "magenta",
    Status.NEEDS_REAUTH: "red",
    "in doubt": "yellow",
    "left behind": "yellow",
}


class Screen(Protocol):
    """Where the play is shown."""

    def show(self, scene: str, seen: Snapshot, *, elapsed_s: float, workers: Mapping[str, str]) -> None:
        """Show the fleet as it is now."""

    def close(self) -> None:
        """Leave the place to what is printed next."""


class Lines:
    """A line every two seconds, and one for each new scene: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._scene = ""
        self._last = float("-inf")

    def show(self, scene: str, seen: Snapshot, *, elapsed_s: float, workers: Mapping[str, str]) -> None:
        """Print what has changed."""
        del workers
        if scene != self._scene:
            self._console.print(f"{elapsed_s:5.1f} s  {scene}", highlight=False, soft_wrap=True)
            self._scene = scene
        elif time.monotonic() < self._last + _LINE_EVERY_S:
            return
        self._last = time.monotonic()
        self._console.print(f"{elapsed_s:5.1f} s    {counts(seen)}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Do nothing: what is printed stays."""


class Picture:
    """The live picture of a terminal."""

    def __init__(self, console: Console, *, footer: str) -> None:
        self._footer = footer
        # Drawn when there is something new, so no thread of rich's own is needed.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, scene: str, seen: Snapshot, *, elapsed_s: float, workers: Mapping[str, str]) -> None:
        """Draw it anew."""
        self._live.update(picture(scene, seen, elapsed_s, workers, self._footer), refresh=True)

    def close(self) -> None:
        """Wipe the picture."""
        with suppress(OSError):
            self._live.stop()


def counts(seen: Snapshot) -> str:
    """Return the counts in a line."""
    parts = [f"{seen.refreshed} of {seen.total} refreshed"]
    parts += [f"{number} {status}" for status, number in seen.by_status.items() if number]
    parts += [f"{seen.under_way} under way", f"{seen.in_doubt} in doubt", f"{seen.held} with syncs held"]
    if seen.stranded:
        parts.append(f"{seen.stranded} left behind by the killed worker")
    return ", ".join(parts)


def picture(scene: str, seen: Snapshot, elapsed_s: float, workers: Mapping[str, str], footer: str) -> RenderableType:
    """Return everything at once: 20 lines, 80 columns."""
    return Group(
        Text(f"{elapsed_s:4.0f} s  {scene}", style="bold"),
        Text(),
        _progress(seen),
        Text(),
        _numbers(seen),
        Text(),
        _last(seen.attempts, workers),
        Text(),
        Text(footer, style="dim"),
    )


def _progress(seen: Snapshot) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        "refreshed",
        ProgressBar(total=max(1, seen.total), completed=seen.refreshed, width=50),
        f"{seen.refreshed} of {seen.total}",
    )
    return grid


def _numbers(seen: Snapshot) -> Table:
    grid = Table.grid(padding=(0, 2))
    numbers = {str(status): number for status, number in seen.by_status.items()}
    numbers |= {"under way": seen.under_way, "in doubt": seen.in_doubt, "left behind": seen.stranded}
    numbers |= {"syncs held": seen.held}
    grid.add_row(*(Text(name, style="dim") for name in numbers))
    grid.add_row(*(Text(str(n), style=_NUMBER_COLOURS.get(name, "") if n else "dim") for name, n in numbers.items()))
    return grid


def _last(attempts: tuple[Attempt, ...], workers: Mapping[str, str]) -> Table:
    table = Table("ended (UTC)", "connection", "came to", "by", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for attempt in attempts:
        came_to = " ".join(filter(None, (attempt.outcome, attempt.reason)))
        table.add_row(
            f"{attempt.at:%H:%M:%S}",
            str(attempt.connection_id),
            Text(came_to, style=_COLOURS.get(Outcome(attempt.outcome), "red")),
            workers.get(attempt.worker or "", "another"),
        )
    return table
