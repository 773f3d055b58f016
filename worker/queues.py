"""Names that are public: queues and tasks."""

from qbo_refresh import names

SWEEP = "qbo.sweep"
ADHOC = names.ADHOC
EVENTS = "qbo.events"
ALL = (SWEEP, ADHOC, EVENTS)

REFRESH_DUE = "worker.tasks.refresh_due"
REFRESH_CONNECTION = names.REFRESH_CONNECTION
DISPATCH_DUE = "worker.tasks.dispatch_due"
EXCHANGE = names.EXCHANGE
DISCONNECT = names.DISCONNECT
DISCONNECT_HINT = names.DISCONNECT_HINT
SETTLE_GRANTS = "worker.tasks.settle_grants"
DELIVER_EVENTS = "worker.tasks.deliver_events"

TASKS = frozenset(
    {
        REFRESH_DUE,
        REFRESH_CONNECTION,
        DISPATCH_DUE,
        EXCHANGE,
        DISCONNECT,
        DISCONNECT_HINT,
        SETTLE_GRANTS,
        DELIVER_EVENTS,
    }
)
