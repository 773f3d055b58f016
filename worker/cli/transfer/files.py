"""The files that tokens come from and go to, and the bar that shows how far it is."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from qbo_refresh.errors import QboRefreshError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.importing.load import Progress as Show


class NoFile(QboRefreshError):
    """A file cannot be read, or may not be written."""


@contextlib.contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """Give a file to read, or standard input for `-`; what cannot be read is one sentence."""
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = Path(name).open("rb")  # noqa: SIM115  # closed below; an error while it is used is not one of opening
    except OSError as error:
        raise NoFile(f"{name!r} cannot be read: {error.strerror}.") from error
    with stream:
        yield stream


def size(stream: BinaryIO) -> int | None:
    """Return how many bytes will come, if that is known."""
    with contextlib.suppress(OSError):
        about = os.fstat(stream.fileno())
        if stat.S_ISREG(about.st_mode):
            return about.st_size
    return None


@contextlib.contextmanager
def owner_only(path: Path) -> Iterator[TextIO]:
    """Make a new file for its owner alone; it is removed again if the work fails."""
    _check_place(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise NoFile(f"{str(path)!r} exists already: it is not overwritten.") from None
    except OSError as error:
        raise NoFile(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
    except BaseException:
        path.unlink()
        raise


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise NoFile(f"{str(path)!r} is a directory: name a new file in it.")
    if path.exists():
        raise NoFile(f"{str(path)!r} exists already: it is not overwritten.")
    if not path.parent.is_dir():
        raise NoFile(f"{str(path)!r} cannot be written: make the directory {str(path.parent)!r} first.")


@contextlib.contextmanager
def export_target(name: str) -> Iterator[TextIO]:
    """Give the file to write, which has its name only once it is whole."""
    if name == "-":
        if sys.stdout.isatty():
            raise NoFile("Standard output is a terminal, and tokens are not shown: name a file, or use a pipe.")
        yield sys.stdout
        sys.stdout.flush()
        return
    path, part = Path(name), Path(name + ".part")
    _check_place(path)
    with owner_only(part) as target:
        yield target
    part.rename(path)


@contextlib.contextmanager
def bar(total: int | None) -> Iterator[Show]:
    """Show progress on standard error; nothing where that is no terminal.

    Args:
        total: How many bytes will be read, if that is known.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Starting", total=None, lines=0)

        def show(step: str, *, bytes_read: int, lines_read: int) -> None:
            # How long comparing and writing take is not known beforehand: the bar then pulses.
            known = total if step == "Reading" else None
            progress.update(task, description=step, completed=bytes_read, total=known, lines=lines_read)

        yield show
