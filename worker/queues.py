"""Names that are public: queues and tasks."""

SWEEP = "qbo.sweep"
ADHOC = "qbo.adhoc"
EVENTS = "qbo.events"
ALL = (SWEEP, ADHOC, EVENTS)

REFRESH_DUE = "worker.tasks.refresh_due"
REFRESH_CONNECTION = "worker.tasks.refresh_connection"
DISPATCH_DUE = "worker.tasks.dispatch_due"
DELIVER_EVENTS = "worker.tasks.deliver_events"
