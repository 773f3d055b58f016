"""Plays the example: the host beside the worker, on servers of its own, against the simulator of Intuit."""
