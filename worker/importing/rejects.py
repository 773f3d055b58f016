"""The file of rejects: the bad lines as they were, with the reasons. It can be mended and imported as it is.

It holds tokens in clear: its owner alone may read it.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

from worker.importing.layout import REASON, BadLine, Format, Layout, split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from worker.importing.lines import Lines


def write(target: TextIO, lines: Lines, layout: Layout, refusals: Iterator[tuple[int, str]]) -> None:
    """Write the refused lines.

    Args:
        target: An open text file.
        lines: The file's lines, from the first one on.
        layout: How they are written.
        refusals: Line numbers, ascending, and why.
    """
    columns = [name for name in layout.columns if name != REASON]
    out = csv.writer(target, delimiter=layout.delimiter, lineterminator="\n")
    if layout.format is Format.CSV:
        out.writerow([*columns, REASON])
    number, reason = next(refusals, (0, ""))
    for line in lines:
        if line.number != number:
            continue
        text = line.raw.decode(errors="backslashreplace")
        if layout.format is Format.CSV:
            out.writerow([*_fields(text, layout), f"line {number}: {reason}"])
        else:
            target.write(_json(text, f"line {number}: {reason}") + "\n")
        number, reason = next(refusals, (0, ""))


def _fields(text: str, layout: Layout) -> list[str]:
    try:
        fields = split(text, layout.delimiter)
    except BadLine:
        fields = [text]
    if len(fields) == len(layout.columns):
        return [field for name, field in zip(layout.columns, fields, strict=True) if name != REASON]
    # It does not fit the header: the whole line goes into the first column.
    width = sum(name != REASON for name in layout.columns)
    return [text, *[""] * (width - 1)]


def _json(text: str, reason: str) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        values = {"line": text}
    return json.dumps(values | {REASON: reason})
