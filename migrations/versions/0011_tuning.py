"""What a job changes of its base

Jobs of before have none asked for, and go on with LoRA.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tuning = postgresql.JSONB(astext_type=sa.Text())
    op.add_column("jobs", sa.Column("tuning", tuning, nullable=True))


def downgrade() -> None:
    begun = op.get_bind().scalar(
        sa.text(
            "SELECT count(*) FROM jobs WHERE status NOT IN ('succeeded', 'failed', 'cancelled')"
            " AND tuning IS NOT NULL"
        )
    )
    if begun:
        raise RuntimeError(
            f"the version before would train {begun} jobs in another way than was asked for; let them "
            "end or cancel them first"
        )
    op.drop_column("jobs", "tuning")
