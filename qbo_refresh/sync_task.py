"""A base class for a host's sync tasks: a paused connection's run is skipped before the body, and counted."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from celery import Task
from celery.app.task import Context
from celery.exceptions import Ignore, Retry
from kombu.exceptions import OperationalError

from qbo_refresh import access, other_side
from qbo_refresh.errors import ConfigurationError, QboRefreshError, SyncPaused, TemporarilyUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

IGNORED = "IGNORED"  # Celery's own word for the state


class _Unknown(Exception):  # as all of ours
    """Nobody knows whether the syncs are paused, and the run is to be skipped."""


class SyncTask(Task):  # type: ignore[type-arg]  # generic in the stubs alone
    """Use it as `@app.task(base=SyncTask)`; the function takes the connection as one of its arguments.

    A run is skipped before the body if the connection's syncs are paused, and a SyncPaused in mid-sync ends it. Both
    are ignored in Celery's sense (no failure, nothing after it in a chain), have the state IGNORED in Flower and in the
    result backend, and are counted, so that `sync.resumed` can say how many runs were missed. In a chord, where an
    ignored member would keep the others waiting for ever, such a run succeeds with the result None; so does a chain
    that is a member and ends before its last run, or each run of the group that it ends with.

    Attributes:
        connection_arg: Which argument is the connection: our id, `external:…` or `realm:…`.
        when_database_is_away: What becomes of a run when PostgreSQL cannot say whether it is paused. `retry` sends it
            again for `database_retry_after` later and spends none of the task's own retries; `skip` ignores it
            as a paused one, but uncounted; `run` begins it all the same.
        database_retry_after: How much later.
    """

    abstract = True
    connection_arg: ClassVar[str] = "connection_id"
    when_database_is_away: ClassVar[Literal["retry", "skip", "run"]] = "retry"
    database_retry_after: ClassVar[timedelta] = timedelta(minutes=1)
    # With autoretry_for=(Exception,) a pause would be retried like a failure.
    dont_autoretry_for: ClassVar[tuple[type[Exception], ...]] = (SyncPaused,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body unless the connection's syncs are paused.

        Raises:
            SyncPaused: They are, and this is a call from Python and no run of a worker's.
            Ignore, Retry: What a worker understands.
        """
        try:
            self._check(args, kwargs)
            return super().__call__(*args, **kwargs)
        except SyncPaused as paused:
            if self.request.called_directly:
                raise
            with contextlib.suppress(QboRefreshError):  # the run is over, whether it could be counted or not
                other_side.here().count_missed(paused.connection_id)
            return self._ignored(", ".join(paused.reasons))
        except _Unknown as unknown:
            return self._ignored(str(unknown))

    def _check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        connection = self._connection(args, kwargs)
        try:
            access.ensure_syncable(connection)
        except TemporarilyUnavailable as error:
            if self.request.called_directly:
                raise
            self._without_database(error.reason)

    def _connection(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | str:
        bound = inspect.signature(self.run).bind(*args, **kwargs)
        bound.apply_defaults()
        if self.connection_arg not in bound.arguments:
            raise ConfigurationError(
                f"The task {self.name} has no argument {self.connection_arg!r}: set its connection_arg."
            )
        connection: int | str = bound.arguments[self.connection_arg]
        return connection

    def _without_database(self, reason: str) -> None:
        if self.when_database_is_away == "run":
            return
        if self.when_database_is_away == "skip":
            raise _Unknown(reason)
        seconds = round(self.database_retry_after.total_seconds())
        # Not `self.retry`: an outage of ours must not use up the retries that the host has for its own.
        self.signature_from_request(countdown=seconds, retries=self.request.retries).apply_async()
        raise Retry(reason, when=seconds)  # type: ignore[arg-type]  # a number it is

    def _ignored(self, reason: str) -> None:
        """End a run that is skipped, for whatever reason.

        Raises:
            Ignore: Unless it is in a chord.
        """
        self._show_ignored(reason)
        if not self.request.chord:
            self._answer_for_its_chain()
            raise Ignore(reason) from None

    def _answer_for_its_chain(self) -> None:
        """Have a chord go on whose member is the chain that ends here: it waits for the last link, which never runs."""
        links: Sequence[Any] = self.request.chain or ()
        for last in itertools.chain.from_iterable(map(_ends, links)):
            options = last["options"]
            if "chord" in options:
                request = Context(last, **options, id=options["task_id"], group=options["group_id"])
                self.backend.mark_as_done(options["task_id"], None, request)

    def _show_ignored(self, reason: str) -> None:
        """Have Flower and the result backend show the state: Celery itself leaves an ignored run at STARTED."""
        # An eager run has no worker that Flower knows, and in a host's tests no broker: each try would take seconds.
        if not self.request.is_eager:
            with contextlib.suppress(OperationalError):
                # Flower shows a result, and no field that it does not know.
                self.send_event("task-ignored", retry=False, reason=reason, result=reason)
        if not (self.ignore_result or self.request.ignore_result or self.request.chord):
            self.update_state(state=IGNORED, meta={"reason": reason})


def _ends(link: Any) -> Iterator[Any]:
    """Yield the tasks that a link ends with: a chord around it waits for a chord's body, and for each of a group."""
    match link["subtask_type"]:
        case "chord":
            yield from _ends(link["kwargs"]["body"])
        case "group":
            for member in link["kwargs"]["tasks"]:
                yield from _ends(member)
        case "chain":
            yield from _ends(link["kwargs"]["tasks"][-1])
        case _:
            yield link
