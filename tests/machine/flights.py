"""Use cases that stop in the middle: each runs in a thread, and of all threads one goes at a time."""

from __future__ import annotations

from threading import Semaphore
from typing import TYPE_CHECKING

from tests.support.seams import Killed

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from datetime import timedelta

    from tests.machine.stage import Process

_PATIENCE_S = 60.0


class Flight:
    """One call of a use case, which stands still at its stop until somebody lets it go on, or kills it.

    Attributes:
        what: `refresh`, `exchange`, `disconnect`, `reseal` or `import`.
        number: Of the customer that it is for; None for all.
        by: Whose it is; None for a command.
        began: The machine's time when it was begun.
        first_key: What sealed when it was begun.
        hand: The tokens that Intuit has given it.
        has_sent: It stands still with a token presented, or after it.
    """

    def __init__(
        self,
        what: str,
        number: int | None,
        *,
        by: Process | None,
        began: timedelta,
        first_key: str,
    ) -> None:
        self.what, self.number, self.by, self.began, self.first_key = what, number, by, began, first_key
        self.hand: set[str] = set()
        self.has_sent = False
        self.is_over = False
        self._stops = False
        self._killed = False
        self._go, self._back = Semaphore(0), Semaphore(0)
        self._future: Future[object] | None = None

    def start(self, pool: ThreadPoolExecutor, work: Callable[[], object], *, stops: bool) -> None:
        """Run until it is over, or until it stands still."""
        self._stops = stops
        self._future = pool.submit(self._run, work)
        self._wait()

    def go_on(self, *, kill: bool = False) -> None:
        """Let it run to its end; or end it where it stands."""
        self._killed = kill
        self._go.release()
        self._wait()

    def stand(self) -> None:
        """Stand still, the first time that this is reached. Called by the use case, in its thread.

        Raises:
            Killed: It does not go on.
        """
        if not self._stops:
            return
        self._stops = False
        self._back.release()
        if not self._go.acquire(timeout=_PATIENCE_S) or self._killed:
            raise Killed

    def result(self) -> object:
        """Return what the use case returned; None if it was killed."""
        if self._future is None:
            raise AssertionError("it was never started")
        error = self._future.exception()
        if isinstance(error, Killed):
            return None
        return self._future.result()

    def _run(self, work: Callable[[], object]) -> object:
        try:
            return work()
        finally:
            self.is_over = True
            self._back.release()

    def _wait(self) -> None:
        if not self._back.acquire(timeout=_PATIENCE_S):
            raise AssertionError(f"a {self.what} hangs")
