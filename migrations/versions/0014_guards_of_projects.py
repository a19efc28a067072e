"""Guards of projects

A project's inference is not guarded until somebody says so.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("guards_input", "guards_output"):
        column: sa.Column[bool] = sa.Column(
            name, sa.Boolean(), server_default=sa.false(), nullable=False
        )
        op.add_column("projects", column)


def downgrade() -> None:
    for name in ("guards_output", "guards_input"):
        op.drop_column("projects", name)
