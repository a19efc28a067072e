"""Weights of projects

Each has the same share of the inference servers until somebody says otherwise.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("weight", sa.Integer(), server_default="1", nullable=False))


def downgrade() -> None:
    op.drop_column("projects", "weight")
