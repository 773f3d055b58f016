"""By which names a host asks the worker: public."""

ADHOC = "qbo.adhoc"
REFRESH_CONNECTION = "worker.tasks.refresh_connection"
EXCHANGE = "worker.tasks.exchange"
DISCONNECT = "worker.tasks.disconnect"
DISCONNECT_HINT = "worker.tasks.disconnect_hint"
