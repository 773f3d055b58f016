"""The file `.env` before it is read: what python-dotenv would end at, or skip without naming the file, is refused."""

from __future__ import annotations

import io
from pathlib import Path

from dotenv.parser import parse_stream

from worker.settings.errors import SettingsError

ENV_FILE = Path(".env")


def check(file: Path = ENV_FILE) -> None:
    """Return if a file can be read, or is not there.

    Raises:
        SettingsError: It is not UTF-8, or a line cannot be parsed.
    """
    if not file.is_file():
        return
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not UTF-8 (byte {error.start + 1}): save it as UTF-8.") from None
    for binding in parse_stream(io.StringIO(text, newline=None)):
        if binding.error:
            # What was skipped before the statement, empty lines too, counts as its own.
            statement = binding.original.string
            line = binding.original.line + statement[: len(statement) - len(statement.lstrip())].count("\n")
            raise SettingsError(f"{file} cannot be read at line {line}: write NAME=value there, quotes closed.")
