"""What an entry of the list of guards is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard.

    Attributes:
        name: What is removed, for `--only`.
        file: Where it stands, from the root.
        old: Its text, which stands there once.
        new: What is put in its place.
        tests: Node ids of pytest; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def corners(*names: str) -> tuple[str, ...]:
    """Return the node ids of tests in one file that several subjects have guards in."""
    return tuple(f"tests/faults/test_corners.py::{name}" for name in names)
