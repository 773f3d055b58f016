"""A host's process under chaos: threads that want tokens, reject them, and ask for refreshes by task.

    python -m tests.chaos.callers SEED '[IDS]'

It goes on until its standard input ends, then prints one JSON object: what it met, and what it should not have met.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import qbo_refresh
from qbo_refresh import SyncPaused, TemporarilyUnavailable, broker
from worker.queues import REFRESH_CONNECTION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

THREADS = 3
# An access token lives an hour: one that has less left than this is ten seconds old.
_YOUNG_S = 3590.0
_TIMEOUT_S = 2.0
# Well above the timeout, for a machine whose cores are shared by thirty processes.
_NEVER_LONGER_S = _TIMEOUT_S + 8.0


class Callers:
    """Threads and their tally."""

    def __init__(self, seed: int, ids: Sequence[int]) -> None:
        self.counts: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.over = threading.Event()
        self._by = random.Random(seed)  # noqa: S311  # chooses, and hides nothing
        self._ids = ids

    def run(self, act: Callable[[int], str], pause_s: float) -> None:
        """Call again and again, and note what came of it."""
        while not self.over.wait(self._by.random() * 2 * pause_s):
            began = time.monotonic()
            try:
                outcome = act(self._by.choice(self._ids))
            except (SyncPaused, TemporarilyUnavailable) as error:
                outcome = f"{act.__name__}: {type(error).__name__}"
            except Exception as error:  # noqa: BLE001  # that is what is looked for
                outcome = f"{act.__name__}: {type(error).__name__}"
                self.surprises.append(f"{outcome}: {error}")
            self.counts[outcome] += 1
            took = time.monotonic() - began
            if took > _NEVER_LONGER_S:
                self.surprises.append(f"{outcome} took {took:.1f} s of {_TIMEOUT_S} s")


def token(connection_id: int) -> str:
    """Ask for a token that is young."""
    with qbo_refresh.access_token(connection_id, min_ttl=_YOUNG_S, timeout=_TIMEOUT_S):
        return "token"


def rejected(connection_id: int) -> str:
    """Report a token as refused."""
    with (
        qbo_refresh.access_token(connection_id, timeout=_TIMEOUT_S) as held,
        qbo_refresh.reject(held, timeout=_TIMEOUT_S),
    ):
        return "rejected"


def forced(connection_id: int) -> str:
    """Ask for a refresh by a task, and do not wait for it."""
    try:
        broker.send(broker.app(), REFRESH_CONNECTION, connection_id, max_age=0.0)
    except Exception as error:  # noqa: BLE001  # a broker that is away: kombu's own words for it are many
        return f"forced: {type(error).__name__}"
    return "forced"


def main(seed: int, ids: Sequence[int]) -> None:
    """Call until standard input ends."""
    callers = Callers(seed, ids)
    works = [(token, 0.15)] * THREADS + [(rejected, 0.5), (forced, 0.5)]
    threads = [threading.Thread(target=callers.run, args=work) for work in works]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    callers.over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"counts": callers.counts, "surprises": callers.surprises}), flush=True)  # noqa: T201  # a program


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
