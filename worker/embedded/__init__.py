"""Real PostgreSQL and Valkey servers out of two wheels, for the demo, tests and small installations."""

from worker.embedded.errors import EmbeddedUnavailable
from worker.embedded.servers import Servers, start

__all__ = ["EmbeddedUnavailable", "Servers", "start"]
