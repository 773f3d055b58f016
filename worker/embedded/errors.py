"""The one error of the embedded servers."""

from qbo_refresh.errors import QboRefreshError


class EmbeddedUnavailable(QboRefreshError):
    """The embedded servers cannot run here, did not start, or are not there any more; the message says why."""
