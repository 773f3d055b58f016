"""The root of every error that this project raises on purpose."""

from __future__ import annotations


class QboRefreshError(Exception):
    """Base class. Its text is one sentence that names the thing and the mend, and never holds a secret."""
