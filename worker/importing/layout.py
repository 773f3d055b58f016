"""How a file writes its rows: CSV under a header, or JSON lines. Turns a line into trimmed texts by column.

Limit: a row is one line. A quoted field with a line break in it would be refused anyway, as any control character is.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from qbo_refresh.errors import QboRefreshError

if TYPE_CHECKING:
    from worker.importing.lines import Line

REQUIRED = ("realm_id", "refresh_token")
TIMES = ("token_obtained_at", "access_expires_at", "refresh_expires_at", "hard_expires_at")
COLUMNS = (*REQUIRED, "access_token", "environment", "client_id", "external_id", "label", *TIMES)
SEALED = ("id", "grant_number", "sealed_realm_id", "sealed_refresh_token")
"""What `export --sealed` writes, as JSON lines, in place of the required columns."""
REASON = "reason"
"""The column that a file of rejects has more: ignored, so that a mended one can be imported as it is."""
_NUMBERS_TOO = frozenset({"realm_id", "external_id", "id", "grant_number"})
_KNOWN = frozenset({*COLUMNS, *SEALED})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]{0,39}")
# Control characters, line separators, lone surrogates, and those that reorder what a terminal shows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UnusableFile(QboRefreshError):
    """The file as a whole cannot be read."""


class BadLine(Exception):
    """A line cannot be imported. Its reasons name columns and line numbers, never a value from the file."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        super().__init__("; ".join(reasons))


class Format(StrEnum):
    """How rows are written."""

    CSV = "csv"
    JSON_LINES = "jsonl"


@dataclass(frozen=True, slots=True)
class Layout:
    """The format of one file.

    Attributes:
        columns: The header of a CSV file; empty for JSON lines.
    """

    format: Format
    columns: tuple[str, ...] = ()
    delimiter: str = ","

    def values(self, line: Line) -> dict[str, str]:
        """Return the line's texts by column, without those that are empty.

        Raises:
            BadLine: It is not a row of this layout.
        """
        if line.too_long:
            raise BadLine("the line is longer than 64 KiB")
        try:
            text = line.raw.decode()
        except UnicodeDecodeError as error:
            raise BadLine(f"the line is not UTF-8 (byte {error.start + 1})") from None
        values = self._csv(text) if self.format is Format.CSV else _json(text)
        if _CONTROL.search("".join(values.values())):
            names = [name for name, value in values.items() if _CONTROL.search(value)]
            raise BadLine(*(f"{name} has a control character in it" for name in names))
        return values

    def _csv(self, text: str) -> dict[str, str]:
        fields = split(text, self.delimiter)
        if len(fields) != len(self.columns):
            raise BadLine(f"the number of fields is {len(fields)}, the header's is {len(self.columns)}")
        return {
            name: trimmed
            for name, field in zip(self.columns, fields, strict=True)
            if name != REASON and (trimmed := field.strip())
        }


def split(text: str, delimiter: str) -> list[str]:
    """Return the fields of one CSV line.

    Raises:
        BadLine: Its quotes do not match.
    """
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        if "\x00" in text or "\r" in text:
            raise BadLine("the line has a control character in it") from None
        raise BadLine("the line's quotes do not match, or a quoted field has a line break in it") from None


def _json(text: str) -> dict[str, str]:
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise BadLine("the line is not JSON") from None
    if not isinstance(pairs, _Pairs):
        raise BadLine("the line is not a JSON object")
    values = {name: _text(name, value) for name, value in pairs if name != REASON and value is not None}
    if len({name for name, _ in pairs}) != len(pairs):
        raise BadLine("the line has a column twice")
    unknown = [name for name in values if name not in _KNOWN]
    if unknown:
        raise BadLine(*(_unknown(name, shown=set(REQUIRED) <= values.keys()) for name in unknown))
    return {name: value for name, value in values.items() if value}


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it stands in the text, so that a repeated name shows."""


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if name in _NUMBERS_TOO and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if name in _KNOWN:
        raise BadLine(f"{name} is not a JSON string")
    return ""


def _unknown(name: str, *, shown: bool) -> str:
    # In a file without a header, what stands in the place of a name may be a token.
    named = f" {name!r}" if shown and _NAME.fullmatch(name) else ""
    return f"unknown column{named}: known are {', '.join(COLUMNS)}"


def layout_of(first: Line, chosen: Format | None) -> Layout:
    """Return the layout of a file from its first line that is not blank, a CSV file's header.

    Args:
        first: That line.
        chosen: The format, if something has named it; None to tell by the first character.

    Raises:
        UnusableFile: This is no text, or nothing that has lines.
        BadLine: The header is wrong.
    """
    for magic, mend in _NOT_TEXT:
        if first.raw.startswith(magic):
            raise UnusableFile(f"The file {mend}.")
    start = first.raw.lstrip()[:1]
    if chosen is Format.JSON_LINES or (chosen is None and start == b"{"):
        return Layout(Format.JSON_LINES)
    return _under_header(first)


_NOT_TEXT = (
    (b"\x1f\x8b", "is compressed (gzip): pipe it through `gunzip -c` into `qbo-refresh import -`"),
    (b"PK\x03\x04", "is a ZIP archive or a spreadsheet: save it as CSV in UTF-8 first"),
    (b"\xff\xfe", "is UTF-16: save it as UTF-8 first"),
    (b"\xfe\xff", "is UTF-16: save it as UTF-8 first"),
    (b"[", "is one JSON array, not JSON lines: turn it into lines with `jq -c '.[]'` first"),
)


def _under_header(first: Line) -> Layout:
    try:
        text = first.raw.decode()
    except UnicodeDecodeError:
        raise UnusableFile("The file is not text: CSV under a header, or JSON lines, can be imported.") from None
    for delimiter in ",;\t":
        columns = tuple(field.strip().lower() for field in split(text, delimiter))
        if set(REQUIRED) <= set(columns):
            break
    else:
        raise BadLine(
            "this is no header: the first line must name the columns, realm_id and refresh_token at least;"
            f" known are {', '.join(COLUMNS)}"
        )
    unknown = [name for name in columns if name not in {*COLUMNS, REASON}]
    if unknown:
        raise BadLine(*(_unknown(name, shown=True) for name in unknown))
    if len(set(columns)) != len(columns):
        raise BadLine("the header has a column twice")
    return Layout(Format.CSV, columns, delimiter)
