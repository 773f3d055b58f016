"""A process of a host: so many threads ask for one connection's token at once, and each writes down when it had it.

It is told by its environment as a host's process is; arguments: the connection, the threads, a file to wait for, then
`access` or `reject`. It prints one JSON object: the wall-clock times of the answers, the tokens' versions, the errors.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import qbo_refresh


def main(connection: str, threads: int, start: Path, what: str) -> dict[str, list[Any]]:
    """Ask, and return what came back."""
    said: dict[str, list[Any]] = {"answered": [], "versions": [], "errors": []}
    together = threading.Event()
    before = qbo_refresh.access_token(connection, min_ttl=0) if what == "reject" else None

    def ask() -> None:
        together.wait()
        try:
            token = qbo_refresh.access_token(connection) if before is None else qbo_refresh.reject(before)
        except qbo_refresh.QboRefreshError as error:
            said["errors"].append(str(error))
        else:
            said["answered"].append(time.time())
            said["versions"].append(token.version)

    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for each in asking:
        each.start()
    print("ready", flush=True)  # noqa: T201  # it is a program
    while not start.exists():
        time.sleep(0.005)
    together.set()
    for each in asking:
        each.join()
    return said


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))  # noqa: T201  # as above
