"""What a worker or a beat does when Celery starts and stops it: settings, waiting for PostgreSQL, a warm end."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import celery
from celery import bootsteps, signals
from sqlalchemy.exc import ArgumentError, DBAPIError

from qbo_refresh.errors import QboRefreshError
from worker import clock, log, messages, reaching, reporting, runtime, settings, watching
from worker.database import DatabaseUnavailable, is_passing, sqlstate
from worker.store import dispatch

if TYPE_CHECKING:
    from worker.runtime import Runtime

TRY_EVERY_S = 2.0
TELL_EVERY = 5  # tries

_here: Runtime | None = None


def connect() -> None:
    """Have Celery call this module when a process of the app starts and stops."""
    signals.celeryd_init.connect(_report_errors)
    signals.beat_init.connect(_report_errors)
    signals.beat_init.connect(_ask_broker)
    signals.after_setup_logger.connect(_set_log_level)
    signals.worker_init.connect(_prepare)
    signals.worker_process_init.connect(_prepare_child)
    signals.worker_shutting_down.connect(_stop_claiming)
    signals.worker_process_shutdown.connect(_close)
    signals.worker_shutdown.connect(_close)


def _report_errors(**_: Any) -> None:
    try:
        reporting.start(settings.load())
    except QboRefreshError as error:
        _leave(str(error))


def _ask_broker(**_: Any) -> None:
    """Say at once what a beat would find out with its first message, and end it if that cannot pass."""
    trouble = reaching.broker(settings.load().redis())
    if trouble is not None and not trouble.may_pass:
        _leave(trouble.sentence)
    if trouble is not None:
        sys.stderr.write(f"{trouble.sentence} Waiting for it.\n")


def _set_log_level(**_: Any) -> None:
    # Ours alone: Celery's own logger and the libraries' stay at what `-l` says.
    log.logger.setLevel(settings.load().log_level)


def _refuse_to_refuse_ours(app: celery.Celery) -> None:
    """End a worker that would throw away its own sweep's messages, as this Celery, or something in it, makes them."""
    if fault := messages.fault_of_ours(app, now=clock.now()):
        _leave(
            f"Celery {celery.__version__} publishes messages that this worker refuses ({fault}): "
            "install the version that it was tested with, or take away what adds to them."
        )


def _prepare(sender: Any, **_: Any) -> None:
    """Put the process together before it takes the first message; one sentence and status 2 if it never could."""
    global _here  # noqa: PLW0603  # one per process, as the runtime
    _refuse_to_refuse_ours(sender.app)
    try:
        trouble = reaching.broker(settings.load().redis())
        if trouble is not None and not trouble.may_pass:
            _leave(trouble.sentence)
        _here = _build()
    except QboRefreshError as error:
        _leave(str(error))
    except DBAPIError as error:
        _leave(f"PostgreSQL at DATABASE_URL refuses to work ({type(error.orig).__name__}, SQLSTATE {sqlstate(error)}).")
    _let_readable_go(_here)
    # The threads, or the children, that do the work open connections of their own.
    _here.close()
    config = _here.settings
    watching.start(
        _here.db,
        _here.keys,
        _here.escrow,
        pace=config.pace,
        sweep_every=timedelta(seconds=config.sweep_seconds),
    )


def _let_readable_go(here: Runtime) -> None:
    """Let rows that wait an hour for a key go at once if this process has it: a mended TOKEN_KEYS is a restart."""
    key_ids = here.refresher.keyring.key_ids
    with contextlib.suppress(DatabaseUnavailable):
        freed = here.db.patiently(
            lambda: dispatch.let_readable_go(here.db, key_ids), patience=timedelta(seconds=TRY_EVERY_S)
        )
        if freed:
            sys.stderr.write(f"{freed} connections that waited for a key are tried again.\n")


def _build() -> Runtime:
    """Return this process's runtime, however long PostgreSQL takes to appear."""
    tries = 0
    while True:
        try:
            return runtime.current()
        except (ArgumentError, ValueError) as error:
            raise settings.SettingsError(reaching.malformed("DATABASE_URL").sentence) from error
        except (DatabaseUnavailable, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not is_passing(error):
                raise
            trouble = reaching.database(error)
            if not trouble.may_pass:
                raise DatabaseUnavailable(trouble.sentence) from error
            if tries == 0:
                sys.stderr.write(f"{trouble.sentence} Waiting for it.\n")
        if tries % TELL_EVERY == 0:
            log.warning("database.waiting", seconds=round(tries * TRY_EVERY_S))
        tries += 1
        time.sleep(TRY_EVERY_S)


def _prepare_child(**_: Any) -> None:
    """Open what a prefork child works with. If PostgreSQL has just gone, the first task tries again."""
    global _here  # noqa: PLW0603  # as above
    _here = None
    try:
        _here = runtime.current()
    except (QboRefreshError, DBAPIError) as error:
        log.warning("child.not_ready", error=type(error).__name__)


class StopClaiming(bootsteps.StartStopStep):
    """A step of Celery's worker: it is closed first of all however the worker ends, by remote control too."""

    def close(self, _parent: Any) -> None:
        """Claim nothing from now on."""
        _stop_claiming()


def _stop_claiming(**_: Any) -> None:
    if _here is not None:
        _here.stop.begin()


def _close(**_: Any) -> None:
    if _here is not None:
        _here.stop.begin()
        _here.close()


def _leave(sentence: str) -> NoReturn:
    sys.stderr.write(f"{sentence}\n")
    raise SystemExit(2)
