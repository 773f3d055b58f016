"""Contender (b): what one would write: a Celery task, Intuit's own client, redis-py's Lock, SQLAlchemy's ORM.

Tokens lie in the table unsealed, nothing is retried and nothing is written down: all of that would cost more.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import redis
import sqlalchemy as sa
from celery import Celery
from intuitlib import client as intuit  # type: ignore[import-untyped]
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

# The client takes the address of a discovery document in place of an environment's name.
DISCOVERY_URL = os.environ["INTUIT_DISCOVERY_URL"]
REDIRECT_URI = "http://localhost/callback"

app = Celery("handwritten", broker=os.environ["REDIS_URL"])
app.conf.update(task_default_queue="handwritten", task_ignore_result=True, broker_connection_retry_on_startup=True)
engine = sa.create_engine(os.environ["SQLALCHEMY_URL"], pool_size=int(os.environ["CONCURRENCY"]), max_overflow=0)
locks = redis.Redis.from_url(os.environ["REDIS_URL"])


class Base(DeclarativeBase):
    """The declarative base."""


class Connection(Base):
    """One company's tokens."""

    __tablename__ = "handwritten"
    __table_args__ = {"schema": "bench"}  # noqa: RUF012  # SQLAlchemy's form

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    refresh_token: Mapped[str]
    access_token: Mapped[str | None]
    access_expires_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    refreshed_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))


@app.task(name="handwritten.refresh")
def refresh(connection_id: int) -> None:
    """Refresh one connection under its lock."""
    with locks.lock(f"refresh:{connection_id}", timeout=60), Session(engine) as session:
        connection = session.get_one(Connection, connection_id)
        client = intuit.AuthClient(
            os.environ["INTUIT_CLIENT_ID"], os.environ["INTUIT_CLIENT_SECRET"], REDIRECT_URI, DISCOVERY_URL
        )
        client.refresh(refresh_token=connection.refresh_token)
        now = time.time()
        connection.refresh_token = client.refresh_token
        connection.access_token = client.access_token
        connection.access_expires_at = datetime.fromtimestamp(now + client.expires_in, UTC)
        connection.refreshed_at = datetime.fromtimestamp(now, UTC)
        session.commit()
