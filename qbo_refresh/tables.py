"""The tables as SQLAlchemy Core metadata, without a schema name: `DATABASE_SCHEMA` decides that when they are used.

Why each column is there. The SQL that reads and writes them lives in `worker.store`; `alembic check` proves that the
migrations make exactly this.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

from qbo_refresh.status import Authorized, Hold, Outcome, Status

metadata = sa.MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

_when = sa.DateTime(timezone=True)


def _one_of(column: str, values: type[Status | Hold | Outcome | Authorized] | tuple[str, ...]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


control = sa.Table(
    "control",
    metadata,
    # One row for the whole database, read in every claim.
    sa.Column("one_row", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("frozen", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("frozen_reason", sa.Text),
    sa.Column("thawed_at", _when),
    # Which cluster this is, and on which timeline: compared in each claim. NULL where the server does not say.
    sa.Column("system_identifier", sa.Text),
    sa.Column("timeline", sa.Integer),
    # Raised by each failover, restore and adoption; `epoch_since` is NULL until the first.
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1"),
    sa.Column("epoch_since", _when),
    # The foreign cluster that operators have been told about.
    sa.Column("told_system_identifier", sa.Text),
    # Which LOOKUP_KEY the hashes are under: a worker with another would see no connection as known.
    sa.Column("lookup_check", BYTEA),
    sa.CheckConstraint("one_row", name="one_row"),
)

apps = sa.Table(
    "apps",
    metadata,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("client_id", sa.Text, nullable=False),
    # A 429 pauses the app as a whole, bounded.
    sa.Column("throttled_until", _when),
    # Two beats are harmless: a sweep starts only if the app's last one began long enough ago.
    sa.Column("swept_at", _when),
    # The standstill that operators have been told about.
    sa.Column("stalled_since", _when),
    # The mass guard. The row's lock serialises its count; `population` is what a share is a share of, counted seldom.
    sa.Column("guard_tripped_at", _when),
    sa.Column("guard_released_at", _when),
    sa.Column("guard_note", sa.Text),
    sa.Column("population", sa.BigInteger),
    sa.Column("population_at", _when),
    sa.Column("created_at", _when, nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("environment", "client_id"),
    _one_of("environment", ("production", "sandbox")),
)

app_blocks = sa.Table(
    "app_blocks",
    metadata,
    # One row per client secret that Intuit refused; a deployment with another secret is not blocked.
    sa.Column("app_id", sa.Integer, sa.ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("secret_hash", BYTEA, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    # Different connections that met the code since the last success; three of them block, invalid_client at once.
    sa.Column("connection_ids", sa.ARRAY(sa.BigInteger), nullable=False),
    sa.Column("blocked_at", _when),
    sa.Column("probe_at", _when),
)

unreadable_keys = sa.Table(
    "unreadable_keys",
    metadata,
    # One row per app and key whose values do not open now, the key missing here or not: told once. An empty key_id is
    # that of what names no key.
    sa.Column("app_id", sa.Integer, sa.ForeignKey("apps.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("key_missing", sa.Boolean, primary_key=True),
    sa.Column("since", _when, nullable=False, server_default=sa.func.now()),
    sa.Column("met_at", _when, nullable=False, server_default=sa.func.now()),
)

connections = sa.Table(
    "connections",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("app_id", sa.Integer, sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("label", sa.Text),
    sa.Column("status", sa.Text, nullable=False, server_default=Status.ACTIVE),
    sa.Column("realm_id", BYTEA, nullable=False),
    sa.Column("realm_hash", BYTEA, nullable=False),
    # The grant. `token_version` is the fence: it only grows (a trigger), and every save and verdict compares it.
    sa.Column("grant_number", sa.Integer, nullable=False, server_default="1"),
    sa.Column("token_version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("refresh_token", BYTEA),
    sa.Column("refresh_token_fingerprint", BYTEA),
    sa.Column("previous_refresh_token", BYTEA),
    sa.Column("previous_refresh_token_fingerprint", BYTEA),
    sa.Column("access_token", BYTEA),
    sa.Column("token_obtained_at", _when),
    sa.Column("access_expires_at", _when),
    sa.Column("refresh_expires_at", _when),
    sa.Column("hard_expires_at", _when),
    # That end is our conclusion: the rolling window has stopped moving, and Intuit has not said why.
    sa.Column("hard_expires_inferred", sa.Boolean, nullable=False, server_default=sa.false()),
    # The last of the notices before hard_expires_at that was sent, in days; NULL before the first.
    sa.Column("expiry_told_days", sa.SmallInteger),
    # The fingerprint that we wrote last: another one in the row was written by somebody else.
    sa.Column("known_fingerprint", BYTEA),
    sa.Column("second_writer_at", _when),
    # The lease: who may speak to Intuit for this row, and until when, by the database's clock.
    sa.Column("lease_id", sa.Uuid),
    sa.Column("leased_until", _when),
    sa.Column("in_doubt", sa.Boolean, nullable=False, server_default=sa.false()),
    # The attempt that took the last lease: enough to write its ledger row if its worker never does.
    sa.Column("attempt_began_at", _when),
    sa.Column("attempt_trigger", sa.Text),
    sa.Column("attempt_worker", sa.Text),
    # The schedule. NULL in next_refresh_at means never; not_before binds every caller, forced or not.
    sa.Column("next_refresh_at", _when),
    sa.Column("not_before", _when),
    sa.Column(
        "due_at",
        _when,
        sa.Computed(
            "CASE WHEN next_refresh_at IS NULL THEN NULL ELSE GREATEST(next_refresh_at, not_before) END", persisted=True
        ),
    ),
    sa.Column("queued_until", _when),
    sa.Column("frozen", sa.Boolean, nullable=False, server_default=sa.false()),
    # Whose it is while an old refresher runs beside the worker: not taken over is the old one's, and frozen.
    sa.Column("taken_over", sa.Boolean, nullable=False, server_default=sa.true()),
    # Where it stands: failures in a row, the first refusal of this version, the last word.
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("suspect_since", _when),
    sa.Column("needs_reauth_since", _when),
    sa.Column("last_refreshed_at", _when),
    # Hash, in hex, of the client secret that was accepted last: how many are still to be refreshed with the one in use.
    sa.Column("last_secret", sa.Text),
    sa.Column("last_outcome", sa.Text),
    sa.Column("last_reason", sa.Text),
    # Numbers this connection's events; raised in the transaction that writes them, under the row's lock.
    sa.Column("event_sequence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", _when, nullable=False, server_default=sa.func.now()),
    sa.UniqueConstraint("app_id", "realm_hash"),
    _one_of("status", Status),
    sa.CheckConstraint("taken_over OR frozen", name="taken_over"),
    # What the sweep asks each minute; rows that can never go are not in it.
    sa.Index(
        "connections_due_idx", "app_id", "due_at", "id", postgresql_where=sa.text("due_at IS NOT NULL AND NOT frozen")
    ),
    # What the guard counts, and who is asked again: few, and none of them healthy.
    sa.Index(
        "connections_suspect_since_idx",
        "app_id",
        "suspect_since",
        postgresql_where=sa.text("suspect_since IS NOT NULL"),
    ),
    sa.Index("connections_refresh_token_fingerprint_idx", "refresh_token_fingerprint"),
    sa.Index("connections_label_idx", "label", postgresql_where=sa.text("label IS NOT NULL")),
    # Rows are updated twice a day; room on the page keeps the lease's update off the indexes.
    postgresql_with={"fillfactor": "80"},
)

refresh_attempts = sa.Table(
    "refresh_attempts",
    metadata,
    # The ledger. No foreign key: each insert would lock the connection's row again, and history may outlive it.
    sa.Column("attempt_id", sa.Uuid, primary_key=True),
    sa.Column("connection_id", sa.BigInteger, nullable=False),
    sa.Column("token_version", sa.BigInteger),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("began_at", _when, nullable=False),
    sa.Column("duration_ms", sa.Integer),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("http_status", sa.Integer),
    sa.Column("intuit_tid", sa.Text),
    sa.Column("posts", sa.Integer),
    sa.Column("secret", sa.Text),
    sa.Column("fingerprint_before", BYTEA),
    sa.Column("fingerprint_after", BYTEA),
    # Microseconds from the answer's last byte to the escrow's acknowledgement; NULL if the escrow took nothing.
    sa.Column("exposed_us", sa.BigInteger),
    # What stood against the verdict that this refusal would have been.
    sa.Column("withheld", sa.Text),
    _one_of("outcome", tuple(outcome for outcome in Outcome if outcome is not Outcome.SKIPPED)),
    sa.Index("refresh_attempts_connection_id_began_at_idx", "connection_id", "began_at"),
)

candidates = sa.Table(
    "candidates",
    metadata,
    # Tokens that may be the live one. One displaces the row's only after Intuit has accepted it.
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("connection_id", sa.BigInteger, sa.ForeignKey("connections.id", ondelete="CASCADE"), nullable=False),
    sa.Column("grant_number", sa.Integer, nullable=False),
    sa.Column("base_version", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("refresh_token", BYTEA, nullable=False),
    sa.Column("fingerprint", BYTEA, nullable=False),
    sa.Column("received_at", _when, nullable=False, server_default=sa.func.now()),
    # When Intuit refused it first, or a success settled it untried; when that refusal was believed, of one that has
    # replaced the row's token; and when a success made it worthless.
    sa.Column("tried_at", _when),
    sa.Column("refused_again_at", _when),
    sa.Column("settled_at", _when),
    # Each is kept once: the same token found again in the escrow stays what it is.
    sa.UniqueConstraint("connection_id", "grant_number", "fingerprint"),
    _one_of("source", ("late_save", "refused_save", "salvage", "escrow", "previous", "import")),
)

sync_holds = sa.Table(
    "sync_holds",
    metadata,
    sa.Column("connection_id", sa.BigInteger, sa.ForeignKey("connections.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("reason", sa.Text, primary_key=True),
    sa.Column("since", _when, nullable=False, server_default=sa.func.now()),
    sa.Column("note", sa.Text),
    _one_of("reason", Hold),
)

missed_runs = sa.Table(
    "missed_runs",
    metadata,
    # Runs that a host's sync tasks skipped since the syncs were paused: `sync.resumed` says how many, and clears them.
    sa.Column("connection_id", sa.BigInteger, sa.ForeignKey("connections.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("runs", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("since", _when, nullable=False, server_default=sa.func.now()),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    # NULL for operator events that are about an app or the database.
    sa.Column("connection_id", sa.BigInteger, sa.ForeignKey("connections.id", ondelete="CASCADE")),
    sa.Column("sequence", sa.BigInteger),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("payload", JSONB, nullable=False, server_default="{}"),
    sa.Column("created_at", _when, nullable=False, server_default=sa.func.now()),
    # When it was in the host's broker, and for which task; a time without one: no EVENT_TASK, left to those who poll.
    sa.Column("delivered_at", _when),
    sa.Column("delivered_to", sa.Text),
    # When somebody last asked for it to be sent again.
    sa.Column("resent_at", _when),
    sa.UniqueConstraint("connection_id", "sequence"),
    sa.Index("outbox_undelivered_idx", "id", postgresql_where=sa.text("delivered_at IS NULL")),
)

event_delivery = sa.Table(
    "event_delivery",
    metadata,
    # One row, made by the first delivery: one deliverer at a time, and how long all of them wait for the host's broker.
    sa.Column("one_row", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("lease_id", sa.Uuid),
    sa.Column("leased_until", _when),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("not_before", _when),
    sa.CheckConstraint("one_row", name="one_row"),
)

external_ids = sa.Table(
    "external_ids",
    metadata,
    # A host's own ids; several may name one connection.
    sa.Column("external_id", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.BigInteger, sa.ForeignKey("connections.id", ondelete="CASCADE"), nullable=False),
    sa.Index("external_ids_connection_id_idx", "connection_id"),
)

authorizations = sa.Table(
    "authorizations",
    metadata,
    # A consent on its way: from the link with its state to the grant in `connections`. Nothing in it is in clear but
    # names, and code and realm id are forgotten once it is finished.
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("app_id", sa.Integer, sa.ForeignKey("apps.id"), nullable=False),
    # Which connection is to get the grant. NULL for a first connection, which external_id and label will name.
    sa.Column("connection_id", sa.BigInteger, sa.ForeignKey("connections.id", ondelete="CASCADE")),
    sa.Column("external_id", sa.Text),
    sa.Column("label", sa.Text),
    # Intuit wants the very same one with the code.
    sa.Column("redirect_url", sa.Text, nullable=False),
    # Single use, one browser session, ten minutes: by the database's clock.
    sa.Column("state_hash", BYTEA, nullable=False),
    sa.Column("session_hash", BYTEA, nullable=False),
    sa.Column("created_at", _when, nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", _when, nullable=False),
    sa.Column("used_at", _when),
    # The callback's code and company. code_hash outlives the code: the same call made again is known by it.
    sa.Column("code_hash", BYTEA),
    sa.Column("code", BYTEA),
    sa.Column("realm_id", BYTEA),
    sa.Column("realm_hash", BYTEA),
    # The exchange's lease. Once presented_at is set the code may be spent: it is never presented again. presented_by is
    # the worker that set it.
    sa.Column("lease_id", sa.Uuid),
    sa.Column("leased_until", _when),
    sa.Column("presented_at", _when),
    sa.Column("presented_by", sa.Text),
    sa.Column("not_before", _when),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
    # Whose company it was instead of the expected one; NULL if nobody's here.
    sa.Column("other_connection_id", sa.BigInteger),
    sa.Column("finished_at", _when),
    sa.UniqueConstraint("state_hash"),
    _one_of("outcome", Authorized),
    sa.Index("authorizations_connection_id_idx", "connection_id"),
    sa.Index("authorizations_app_id_realm_hash_idx", "app_id", "realm_hash"),
    sa.Index(
        "authorizations_unfinished_idx", "id", postgresql_where=sa.text("used_at IS NOT NULL AND finished_at IS NULL")
    ),
)

revocations = sa.Table(
    "revocations",
    metadata,
    # Tokens that nobody may have any more, until Intuit has been told. No foreign key to the connection: it may be
    # deleted meanwhile, and a live token must not be left behind.
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("app_id", sa.Integer, sa.ForeignKey("apps.id"), nullable=False),
    sa.Column("connection_id", sa.BigInteger, nullable=False),
    sa.Column("grant_number", sa.Integer, nullable=False),
    # The version at the end: what came after it may be in the escrow. NULL for a token that no row has held.
    sa.Column("token_version", sa.BigInteger),
    # A later consent to the same company ends the older grant by itself, and a revocation could end the later one.
    sa.Column("realm_hash", BYTEA, nullable=False),
    # NULL where a consent was ended whose code had been presented: what its exchange has left in the escrow.
    sa.Column("refresh_token", BYTEA),
    sa.Column("authorization_id", sa.BigInteger),
    sa.Column("created_at", _when, nullable=False, server_default=sa.func.now()),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("leased_until", _when),
    # Not before the end of a lease that was overtaken: Intuit must not see two calls at once with one token, and that
    # attempt may still bring another one into the escrow.
    sa.Column("not_before", _when),
    sa.CheckConstraint("(refresh_token IS NULL) <> (authorization_id IS NULL)", name="one_source"),
    sa.Index("revocations_app_id_realm_hash_idx", "app_id", "realm_hash"),
)
