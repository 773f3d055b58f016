"""The one error of the embedded servers."""


class EmbeddedUnavailable(QboRefreshError):
    """The embedded servers cannot run here, did not start, or are not there any more; the message says why."""
