"""${message}."""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Expand first, contract in a later release: the old release runs beside the new one during a deploy."""
    ${upgrades if upgrades else "op.execute()"}


def downgrade() -> None:
    """Undo it."""
    ${downgrades if downgrades else "op.execute()"}
