"""Starts Celery's processes from one that has imported everything: a worker then costs a fraction of its two seconds.

    python -m tests.chaos.nursery

Each line of its standard input, a JSON object with `arguments` (those of `celery`), `variables` and `log`, makes one
child, whose process id it answers. A child is what `celery …` would be: it has nothing of its parent's but imported
modules, reads its own variables, and is killed, stopped and restarted alone. All end with the standard input.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
from typing import Any

# What reads the environment when it is imported is left to the child.
_LATER = ("worker.app", "worker.tasks", "worker.cli", "worker.demo", "worker.embedded", "worker.doctor")
_FIRST = (
    "celery.__main__",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.bin.beat",
    "celery.concurrency.thread",
    "celery.events.state",
    "celery.fixups.django",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.autoscale",
    "celery.worker.control",
    "celery.worker.strategy",
    "celery.backends.redis",
    "kombu.transport.redis",
    "psycopg",
    "requests",
    "sqlalchemy.dialects.postgresql.psycopg",
)


def preload() -> None:
    """Import what a worker imports, and nothing that opens a connection or starts a thread."""
    import worker  # noqa: PLC0415  # counted among what is preloaded

    for name in _FIRST:
        importlib.import_module(name)
    for found in pkgutil.walk_packages(worker.__path__, "worker."):
        if not found.name.startswith(_LATER):
            importlib.import_module(found.name)


def serve() -> None:
    """Make a child for each line."""
    # Children are not waited for: the system reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    preload()
    _answer({"ready": True})
    while line := sys.stdin.readline():
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order)
        _answer({"pid": pid})
    os.killpg(0, signal.SIGKILL)


def _become(order: dict[str, Any]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    silence = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((silence, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(order["variables"])
    sys.argv = ["celery", *order["arguments"]]
    from celery.__main__ import main  # noqa: PLC0415  # imported long ago

    status = 1
    try:
        main()  # type: ignore[no-untyped-call,unused-ignore]
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
