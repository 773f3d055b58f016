"""The refresh worker: tasks and command line, use cases, adapters, and a pure core."""
