"""Intuit's OAuth 2.0 endpoints over HTTP: one guarded POST, and what its answer means."""

from worker.intuit.endpoint import Endpoint, Gate, TokenEndpoint

__all__ = ["Endpoint", "Gate", "TokenEndpoint"]
