"""When a project was last served, so that projects take turns with their batches"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        op.f("ix_batches_project_id_claimed_at"), "batches", ["project_id", "claimed_at"]
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_batches_project_id_claimed_at"), table_name="batches")
    op.drop_column("batches", "claimed_at")
