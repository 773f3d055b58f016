"""Intuit's OAuth 2.0 endpoints over HTTP: one guarded POST, and what its answer means."""

from worker.intuit.endpoint import Gate, IntuitEndpoint, TokenEndpoint

__all__ = ["Gate", "IntuitEndpoint", "TokenEndpoint"]
