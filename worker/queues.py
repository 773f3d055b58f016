"""Names that are public: queues and tasks."""

SWEEP = "qbo.sweep"
ADHOC = "qbo.adhoc"
EVENTS = "qbo.events"
ALL = (SWEEP, ADHOC, EVENTS)

REFRESH_DUE = "worker.tasks.refresh_due"
REFRESH_CONNECTION = "worker.tasks.refresh_connection"
DISPATCH_DUE = "worker.tasks.dispatch_due"
EXCHANGE = "worker.tasks.exchange"
DISCONNECT = "worker.tasks.disconnect"
DISCONNECT_HINT = "worker.tasks.disconnect_hint"
SETTLE_GRANTS = "worker.tasks.settle_grants"
DELIVER_EVENTS = "worker.tasks.deliver_events"
