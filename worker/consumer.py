"""Celery's consumer of messages, less one way to end: a broker that cuts its connection must not end the worker."""

from __future__ import annotations

from celery.worker import consumer

from worker import log


class Consumer(consumer.Consumer):
    """What Celery calls by the setting `worker_consumer`."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of a connection that was lost, so that the next step is to connect anew.

        kombu (5.7) gives unacknowledged messages back once more to a connection whose transport is gone already: an
        AttributeError, which Celery takes for unrecoverable. The messages come again after the visibility timeout.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            log.warning("broker.not_closed", error=str(error))
