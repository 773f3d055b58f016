"""Measures the worker beside what one would write instead: `python -m benchmarks`. Starts its own servers."""
