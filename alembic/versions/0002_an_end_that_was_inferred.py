"""Whether a grant's end was said by Intuit or concluded by us."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A constant default: PostgreSQL writes it into the catalogue, and no row is touched.
_COLUMN = "ALTER TABLE connections ADD COLUMN hard_expires_inferred boolean NOT NULL DEFAULT false"
# Who may read the end may read this, from the moment that it is there: `qbo-refresh roles` is run later, or never.
_READERS = """
DO $$ DECLARE reader record;
BEGIN
    FOR reader IN
        SELECT DISTINCT r.rolname FROM pg_attribute a CROSS JOIN LATERAL aclexplode(a.attacl) AS x
        JOIN pg_roles r ON r.oid = x.grantee
        WHERE a.attrelid = 'connections'::regclass AND a.attname = 'hard_expires_at' AND x.privilege_type = 'SELECT'
    LOOP
        EXECUTE format('GRANT SELECT (hard_expires_inferred) ON connections TO %I', reader.rolname);
    END LOOP;
END $$
"""
_VIEW = """
{make} VIEW connection_status AS
SELECT c.id, a.environment, c.label,
       ARRAY(SELECT x.external_id FROM external_ids x WHERE x.connection_id = c.id ORDER BY 1) AS external_ids,
       c.status, c.taken_over, c.frozen OR COALESCE((SELECT g.frozen FROM control g), false) AS frozen,
       ARRAY(SELECT h.reason FROM sync_holds h WHERE h.connection_id = c.id ORDER BY 1) AS holds,
       c.needs_reauth_since, c.last_refreshed_at, c.last_outcome, c.last_reason, c.due_at, c.access_expires_at,
       c.refresh_expires_at, c.hard_expires_at{more}
FROM connections c JOIN apps a ON a.id = c.app_id
"""
# A view loses no column in its place: the one before is made anew, and who might read it may still.
_VIEWERS = """
DO $$ DECLARE viewer record;
BEGIN
    FOR viewer IN
        SELECT r.rolname, x.privilege_type FROM pg_class v CROSS JOIN LATERAL aclexplode(v.relacl) AS x
        JOIN pg_roles r ON r.oid = x.grantee
        WHERE v.oid = 'connection_status_of_0002'::regclass AND x.grantee <> v.relowner
    LOOP
        EXECUTE format('GRANT %s ON connection_status TO %I', viewer.privilege_type, viewer.rolname);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Expand only: a release that does not know the column works on, and what it writes is taken for said."""
    op.execute(_COLUMN)
    op.execute(_READERS)
    op.execute(_VIEW.format(make="CREATE OR REPLACE", more=", c.hard_expires_inferred"))


def downgrade() -> None:
    """Take the column away; the ends stay."""
    op.execute("ALTER VIEW connection_status RENAME TO connection_status_of_0002")
    op.execute(_VIEW.format(make="CREATE", more=""))
    op.execute(_VIEWERS)
    op.execute("DROP VIEW connection_status_of_0002")
    op.execute("ALTER TABLE connections DROP COLUMN hard_expires_inferred")
