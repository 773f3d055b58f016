"""How commands print: JSON for programs, numbers and names for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import click

_IDS_SHOWN = 20
_ON_A_SCREEN = 500

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (a line) instead of text.")


def print_json(row: Mapping[str, Any]) -> None:
    """Print one object on one line, times in ISO 8601 UTC."""
    click.echo(json.dumps(plain(row)))


def plain(value: object) -> object:
    """Return a value as JSON can hold it."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        case Enum():
            return value.value
        case bytes():
            return value.hex()
        case Mapping():
            return {name: plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value


def say(lines: Iterable[str]) -> None:
    """Print lines, each at once."""
    for line in lines:
        click.echo(line)


def is_on_a_screen(limit: int) -> bool:
    """Tell whether so many rows (0: all) go to a terminal, where a person reads them in columns."""
    return sys.stdout.isatty() and 0 < limit <= _ON_A_SCREEN


def printable(text: str) -> str:
    """Return text from outside (a label, an external id) without control characters: it may reach a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def counted(number: int, noun: str) -> str:
    """Return a number of things: `1 connection`, `1,200 connections`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(ids: Sequence[int]) -> str:
    """Return the first of some ids, and a mark if there are more."""
    return ", ".join(map(str, ids[:_IDS_SHOWN])) + (", …" if len(ids) > _IDS_SHOWN else "")
