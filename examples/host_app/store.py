"""The host's own tables, in SQLite so that the example needs nothing more: customers, syncs, events, mail."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

_TABLES = """
CREATE TABLE IF NOT EXISTS customers (id TEXT PRIMARY KEY, name TEXT NOT NULL, connected INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS syncs (
    customer_id TEXT NOT NULL REFERENCES customers, kind TEXT NOT NULL, runs INTEGER NOT NULL, result TEXT NOT NULL,
    at TEXT NOT NULL, PRIMARY KEY (customer_id, kind));
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, customer_id TEXT, type TEXT NOT NULL, payload TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mail (customer_id TEXT NOT NULL, subject TEXT NOT NULL, link TEXT NOT NULL);
INSERT INTO customers (id, name) VALUES ('acme', 'Acme Tools'), ('birch', 'Birch Bakery'), ('cedar', 'Cedar Cycles')
    ON CONFLICT DO NOTHING;
"""


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer of the host's. `id` is the external id that the worker knows the connection by."""

    id: str
    name: str
    connected: bool

    @property
    def connection(self) -> str:
        """How `qbo_refresh` is told which connection is meant."""
        return f"external:{self.id}"


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """Yield a connection whose changes are committed together at the end of the block, or not at all."""
    with closing(sqlite3.connect(os.environ["HOST_DATABASE"], timeout=10)) as db, db:
        db.row_factory = sqlite3.Row
        db.execute("BEGIN IMMEDIATE")
        yield db


def make_tables() -> None:
    """Make the tables, and three customers who have not connected yet."""
    with closing(sqlite3.connect(os.environ["HOST_DATABASE"])) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_TABLES)


def customers() -> list[Customer]:
    """Return all customers."""
    with transaction() as db:
        rows = db.execute("SELECT id, name, connected FROM customers ORDER BY id").fetchall()
    return [Customer(row["id"], row["name"], bool(row["connected"])) for row in rows]


def connected_customers() -> list[Customer]:
    """Return those who have connected QuickBooks at some time."""
    return [customer for customer in customers() if customer.connected]


def note_connected(customer_id: str) -> None:
    """Remember that a customer has connected: from now on there are syncs, and old mail is settled."""
    with transaction() as db:
        db.execute("UPDATE customers SET connected = 1 WHERE id = ?", (customer_id,))
        db.execute("DELETE FROM mail WHERE customer_id = ?", (customer_id,))


def note_sync(connection: str, kind: str, result: str) -> None:
    """Remember that a sync has run, and what it brought."""
    with transaction() as db:
        db.execute(
            "INSERT INTO syncs VALUES (?, ?, 1, ?, strftime('%Y-%m-%d %H:%M:%S', 'now')) ON CONFLICT DO UPDATE"
            " SET runs = runs + 1, result = excluded.result, at = excluded.at",
            (connection.removeprefix("external:"), kind, result),
        )


def note_event(db: sqlite3.Connection, event: dict[str, Any]) -> bool:
    """Remember an event of the worker's; False if it is here already."""
    customer_id = next(iter(event["external_ids"]), None)
    values = (event["id"], customer_id, event["type"], json.dumps(event["payload"]), event["created_at"])
    return db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values).rowcount == 1


def note_mail(db: sqlite3.Connection, customer_id: str, subject: str, link: str) -> None:
    """Put a mail to a customer into the outbox. Nobody sends it here; the page shows it."""
    db.execute("INSERT INTO mail VALUES (?, ?, ?)", (customer_id, subject, link))


def activity(customer_id: str) -> dict[str, Any]:
    """Return a customer's syncs, events and mail."""
    with transaction() as db:
        syncs = db.execute("SELECT kind, runs, result, at FROM syncs WHERE customer_id = ? ORDER BY 1", (customer_id,))
        events = db.execute(
            "SELECT id, type, payload, at FROM events WHERE customer_id = ? ORDER BY id", (customer_id,)
        )
        mail = db.execute("SELECT subject, link FROM mail WHERE customer_id = ?", (customer_id,))
        return {
            "syncs": [dict(row) for row in syncs],
            "events": [{**dict(row), "payload": json.loads(row["payload"])} for row in events],
            "mail": [dict(row) for row in mail],
        }
