"""Rows for people on a terminal, in columns that fit: words are kept whole, and what matters least is left out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len, chop_cells, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_GAP = 2
# A word that is longer may be broken: a label or an external id can have 200 characters.
_LONGEST_WORD = 40


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        expendable: 0 if it is always shown; else the larger, the earlier it is left out.
        folds: It may go on below, between words.
        least: It is at least so wide.
        right: Its cells are flush right.
    """

    name: str
    expendable: int = 0
    folds: bool = False
    least: int = 0
    right: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns that fit, with their widths, by their place in a row."""

    columns: Sequence[Column]
    widths: dict[int, int]

    def header(self) -> Iterator[str]:
        """Yield the line of names, or lines."""
        return self.lines([column.name for column in self.columns])

    def footer(self) -> Iterator[str]:
        """Yield a line that names what does not fit, if anything does not."""
        left_out = [column.name for place, column in enumerate(self.columns) if place not in self.widths]
        if left_out:
            yield f"Too narrow here for: {', '.join(left_out)} (--json has them)."

    def lines(self, row: Sequence[str], colours: Mapping[int, str] | None = None) -> Iterator[str]:
        """Yield the lines of one row: a cell that is wider than its column goes on below.

        Args:
            row: A cell for each column, shown or not.
            colours: Of some cells, by their place in the row.
        """
        cells = {place: _folded(row[place], width) for place, width in self.widths.items()}
        for number in range(max(map(len, cells.values()))):
            shown = {place: self._padded(place, (*cell, *[""] * number)[number]) for place, cell in cells.items()}
            for place, colour in (colours or {}).items():
                shown[place] = click.style(shown[place], fg=colour)
            yield (" " * _GAP).join(shown.values()).rstrip()

    def _padded(self, place: int, text: str) -> str:
        width = self.widths[place]
        return " " * (width - cell_len(text)) + text if self.columns[place].right else set_cell_size(text, width)


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None = None) -> Layout:
    """Return how to show rows: columns are folded between words first, then left out.

    Args:
        columns: All there are.
        rows: Some rows, a cell for each column.
        width: Of the screen; None for the terminal's.
    """
    room = width or shutil.get_terminal_size().columns
    cells = [[column.name, *(row[place] for row in rows)] for place, column in enumerate(columns)]
    whole = {
        place: max(columns[place].least, *(cell_len(cell) for cell in column)) for place, column in enumerate(cells)
    }
    least = {
        place: max(columns[place].least, *map(_longest_word, column)) if columns[place].folds else whole[place]
        for place, column in enumerate(cells)
    }
    for place in sorted(whole, key=lambda each: -columns[each].expendable):
        if _total(least) <= room or not columns[place].expendable:
            break
        del whole[place], least[place]
    if _total(least) > room:  # then words are broken
        least |= {place: 1 for place in least if columns[place].folds}
    while _total(whole) > room and (wide := [place for place in whole if whole[place] > least[place]]):
        whole[max(wide, key=lambda each: whole[each])] -= 1
    return Layout(columns, whole)


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _longest_word(text: str) -> int:
    return min(_LONGEST_WORD, max(map(cell_len, text.split()), default=0))


def _folded(text: str, width: int) -> list[str]:
    """Break a text between words, and a word that is longer than a line within. By cells: some characters take two."""
    lines = [""]
    for word in text.split() if cell_len(text) > width else [text]:
        joined = f"{lines[-1]} {word}".lstrip()
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines += chop_cells(word, width)
    return lines if lines[0] or len(lines) == 1 else lines[1:]
