"""What does not open, by app and key: operators are told once of each, and not of each row."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLE = """
CREATE TABLE unreadable_keys (
    app_id integer NOT NULL CONSTRAINT unreadable_keys_app_id_fkey REFERENCES apps ON DELETE CASCADE,
    key_id text NOT NULL,
    key_missing boolean NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    met_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT unreadable_keys_pkey PRIMARY KEY (app_id, key_id, key_missing)
)
"""
# The roles that work on its neighbour work on it from the start: `qbo-refresh roles` is run later, or never.
_WRITERS = """
DO $$ DECLARE writer record;
BEGIN
    FOR writer IN
        SELECT r.rolname, x.privilege_type FROM pg_class t CROSS JOIN LATERAL aclexplode(t.relacl) AS x
        JOIN pg_roles r ON r.oid = x.grantee
        WHERE t.oid = 'app_blocks'::regclass AND x.grantee <> t.relowner
    LOOP
        EXECUTE format('GRANT %s ON unreadable_keys TO %I', writer.privilege_type, writer.rolname);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Expand only: a release that does not know the table tells of each row, as it did."""
    op.execute(_TABLE)
    op.execute(_WRITERS)


def downgrade() -> None:
    """Forget which keys were told of."""
    op.execute("DROP TABLE unreadable_keys")
