"""`demo`: what is printed of it. The demo itself is `worker.demo`."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.cli.printing import json_option
from worker.demo import performance, screen
from worker.demo.performance import Audience, Setting
from worker.demo.plan import FEWEST, LASTS_AT_MOST_S, MOST, SHORTENED, Plan
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.demo.report import Report
    from worker.demo.screen import Screen


def _program() -> str:
    """Return how to call this program here: `make demo` installs it where no PATH leads."""
    in_clone = Path(".venv").resolve() == Path(sys.prefix).resolve()
    return ".venv/bin/qbo-refresh" if in_clone and shutil.which("qbo-refresh") is None else "qbo-refresh"


def next_steps(program: str) -> str:
    """Return what to do after the demo, in lines for a terminal."""
    steps = {
        "keys new >> .env": "Once; keep a copy elsewhere.",
        "migrate": "Makes the tables.",
        "import FILE": "JSON lines: realm_id, ...",
        "doctor": "Asks Intuit, spends no token.",
    }
    width = max(map(len, steps)) + 2
    lines = [f"  {number}. {program} {command:<{width}}{why}" for number, (command, why) in enumerate(steps.items(), 3)]
    return "\n".join([_FIRST, *lines, "  7. The Procfile has the commands to run: worker, beat and Flower."])


_FIRST = """\
With real keys of Intuit's:
  1. At developer.intuit.com make an app: client id and secret are on its page
     Keys and credentials.
  2. Into a file .env: DATABASE_URL, REDIS_URL, INTUIT_CLIENT_ID,
     INTUIT_CLIENT_SECRET, INTUIT_ENVIRONMENT=sandbox or production"""


@click.command()
@click.option(
    "--connections",
    type=click.IntRange(FEWEST, MOST),
    default=200,
    show_default=True,
    help="How many connections there are.",
)
@click.option("--seed", default=1, show_default=True, help="Chooses whose grants are revoked and which calls fail.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C, to look around.")
@json_option
def demo(*, connections: int, seed: int, keep: bool, as_json: bool) -> int:
    """Run the whole worker on servers of its own against a simulator of Intuit, and check what it promises.

    Real PostgreSQL, Valkey, celery worker, celery beat and Flower. Grants are revoked, Intuit has an outage, a worker
    is killed with -9. It ends by itself, under 90 s after its servers have started. Exit status 1 if a promise was not
    kept, 2 if it cannot start here.
    """
    console = Console(stderr=as_json, highlight=False)
    say = _Teller(console, keep=keep, as_json=as_json)
    say.opening(connections)
    judged = performance.perform(Plan(connections, seed), Audience(say.step, say.curtain, say.judged))
    return 0 if judged.all_hold else 1


class _Teller:
    """Tells people, and with --json a program, how it goes."""

    def __init__(self, console: Console, *, keep: bool, as_json: bool) -> None:
        self._console = console
        self._keep = keep
        self._as_json = as_json

    def _print(self, text: str = "", *, style: str | None = None) -> None:
        # Wrapped between words for people; a line stays a line for programs.
        self._console.print(text, style=style, markup=False, soft_wrap=not self._console.is_terminal)

    def _item(self, mark: str, text: str, *, style: str = "") -> None:
        if not self._console.is_terminal:
            self._print(f"  {mark} {text}")
            return
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(" ", Text(mark), Text(text))
        self._console.print(grid, style=style)

    def opening(self, connections: int) -> None:
        fields = Settings.model_fields
        self._print(f"{connections} QuickBooks connections in fast motion, {LASTS_AT_MOST_S:.0f} s at most.")
        self._print("Leases and pauses are shortened for it, by configuration alone:")
        for name, value in SHORTENED.items():
            self._print(f"  {name:<21} {value:>3}   otherwise {fields[name.lower()].default:g}")
        self._print()

    def step(self, text: str) -> None:
        self._print(f"  {text}")

    def curtain(self, setting: Setting) -> Screen:
        flower = setting.flower
        where = f"Flower: {flower.url}  user {flower.user}, password {flower.password}"
        self._print()
        if self._console.is_terminal and not self._as_json:
            return screen.Picture(self._console, footer=where)
        self._print(where)
        return screen.Lines(self._console)

    def judged(self, report: Report, setting: Setting, kept_logs: Path | None) -> None:
        if self._as_json:
            click.echo(json.dumps(report.as_dict()))
        else:
            self._print_report(report)
        if kept_logs is not None:
            self._print(f"\nThe logs of all processes are in {kept_logs}.")
        if self._keep:
            self._linger(setting)

    def _print_report(self, report: Report) -> None:
        marks = ("no", "ok") if self._console.options.ascii_only else ("✗", "✓")
        for check in report.checks:
            self._item(marks[check.holds], check.words, style="" if check.holds else "bold red")
            if check.wrong:
                self._item(" ", f"connections {', '.join(map(str, check.wrong[:20]))}", style="red")
        self._print()
        attempts = report.figures["attempts"]
        if isinstance(attempts, dict):
            self._print("Attempts: " + ", ".join(f"{number} {word}" for word, number in attempts.items()))
        self._print(
            "From the last byte of Intuit's answer to the first sealed copy of its new token:"
            f" {_ms(report.figures['exposed_us_p50'])} (median), {_ms(report.figures['exposed_us_p99'])} (99 %)"
        )
        verdict = "Every promise was kept." if report.all_hold else "A promise was NOT kept."
        self._print(f"\n{verdict}\n", style="bold green" if report.all_hold else "bold red")
        self._print(next_steps(_program()))

    def _linger(self, setting: Setting) -> None:
        flower = setting.flower
        self._print()
        self._print("Everything still runs, until Ctrl-C:")
        self._print(f"  Flower     {flower.url}  user {flower.user}, password {flower.password}")
        self._print(f"  simulator  {setting.simulator_url}")
        self._print(f"  commands   (set -a; . {setting.environment}; {_program()} list)")
        self._print(f"  logs       {setting.logs}")
        try:
            signal.pause()
        except KeyboardInterrupt:
            self._print("Stopping.")


def _ms(microseconds: object) -> str:
    return f"{microseconds / 1000:.2f} ms" if isinstance(microseconds, int) else "not measured"
