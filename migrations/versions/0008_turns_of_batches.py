"""When a project was last served, so that projects take turns with their batches"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_IS_ACTIVE = sa.text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")


def upgrade() -> None:
    op.add_column("batches", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_batches_active", "batches", ["project_id", "not_before"], postgresql_where=_IS_ACTIVE
    )
    op.create_index(
        "ix_batches_leased",
        "batches",
        ["project_id"],
        postgresql_where=sa.text("lease_owner IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_batches_project_id_claimed_at"), "batches", ["project_id", "claimed_at"]
    )


def downgrade() -> None:
    op.drop_index("ix_batches_leased", table_name="batches")
    op.drop_index("ix_batches_active", table_name="batches")
    op.drop_index(op.f("ix_batches_project_id_claimed_at"), table_name="batches")
    op.drop_column("batches", "claimed_at")
