"""What is said of a setting that is missing or malformed."""

from __future__ import annotations

from pathlib import Path

from qbo_refresh.errors import QboRefreshError

# What `run --embedded` leaves in a directory of this name, unless another one is given, for other commands to be told.
EMBEDDED = Path(".qbo-refresh")
CREDENTIALS, KEYS = "credentials.env", "keys.env"


class SettingsError(QboRefreshError):
    """A setting is missing or malformed. The text names the variable and the mend, never its value."""


class Unset(SettingsError):
    """A setting is missing: for a command that can do without, that is no mistake."""


def unset(sentence: str, *, kept_in: str) -> Unset:
    """Return the error for a missing variable. It names the file that has it where `run --embedded` was tried."""
    kept = EMBEDDED / kept_in
    here = f" (`run --embedded` has left it in {kept}: `set -a; . {kept}`)" if kept.is_file() else ""
    return Unset(f"{sentence}{here}.")
