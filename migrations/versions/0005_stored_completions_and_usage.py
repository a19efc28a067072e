"""Stored completions and usage"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stored_completions",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column(
            "metadata",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
        ),
        sa.Column("messages_json", sa.String(), nullable=False),
        sa.Column("completion_json", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_stored_completions_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("pk_stored_completions")),
    )
    op.create_index(
        op.f("ix_stored_completions_created_at"), "stored_completions", ["created_at"], unique=False
    )
    op.create_index(
        op.f("ix_stored_completions_project_id_created_at_id"),
        "stored_completions",
        ["project_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "usage",
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("api_key_id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("is_batch", sa.Boolean(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("num_requests", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_usage_project_id_projects")
        ),
        sa.PrimaryKeyConstraint(
            "minute", "project_id", "api_key_id", "model", "is_batch", name=op.f("pk_usage")
        ),
    )


def downgrade() -> None:
    op.drop_table("usage")
    op.drop_index(
        op.f("ix_stored_completions_project_id_created_at_id"), table_name="stored_completions"
    )
    op.drop_index(op.f("ix_stored_completions_created_at"), table_name="stored_completions")
    op.drop_table("stored_completions")
