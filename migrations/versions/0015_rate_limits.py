"""Rate limits of projects

A project without any has those of the settings.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("requests_per_minute", "tokens_per_minute"):
        op.add_column("projects", sa.Column(name, sa.Integer(), nullable=True))


def downgrade() -> None:
    for name in ("tokens_per_minute", "requests_per_minute"):
        op.drop_column("projects", name)
