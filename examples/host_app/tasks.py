"""The host's tasks: two syncs that stop while a connection is paused, and one that hears why."""

from typing import Any

import qbo_refresh
from host_app import quickbooks, store
from host_app.app import app


class QuickBooksSync(qbo_refresh.SyncTask):
    """What all syncs have in common. A paused connection's run ends before the body, without an error."""

    abstract = True
    autoretry_for = (qbo_refresh.TemporarilyUnavailable,)
    retry_backoff = 2
    max_retries = 5


@app.task(base=QuickBooksSync, name="host_app.sync_company", connection_arg="connection")
def sync_company(connection: str) -> None:
    """Bring over the company's name."""
    company = quickbooks.company(connection)
    store.note_sync(connection, "company", company["CompanyName"])


@app.task(base=QuickBooksSync, name="host_app.sync_invoices", connection_arg="connection")
def sync_invoices(connection: str) -> None:
    """Bring over the invoices."""
    invoices = quickbooks.query(connection, "select * from Invoice")
    store.note_sync(connection, "invoices", f"{len(invoices)} invoices")


@app.task(name="host_app.sync_everyone")
def sync_everyone() -> None:
    """Send a run of each sync for each customer who has connected; `SyncTask` skips those that are paused."""
    for customer in store.connected_customers():
        sync_company.delay(customer.connection)
        sync_invoices.delay(customer.connection)


@app.task(name="host_app.on_quickbooks_event")
def on_quickbooks_event(event: dict[str, Any]) -> None:
    """Take in what the worker tells of a connection: EVENT_TASK names this task, EVENT_QUEUE this app's queue.

    Noting the event and acting on it are one transaction: a worker killed between them does both again.
    """
    with store.transaction() as db:
        if not store.note_event(db, event):
            return  # the same event may come twice
        if event["type"] == "connection.needs_reauth":
            for customer_id, link in event["payload"]["reconnect_urls"].items():
                store.note_mail(db, customer_id, "QuickBooks must be connected again", link)


@app.task(name="host_app.report")
def report() -> int:
    """Do what this app has always done; QuickBooks is nothing to it."""
    return len(store.customers())
