"""Forecasts of jobs, with their outcomes, and what workers tell of their machines"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("host_type", sa.String(), nullable=False),
        sa.Column("num_cores", sa.Integer(), nullable=False),
        sa.Column("has_gpu", sa.Boolean(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("seen_at", _TIME, server_default=_NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "forecasts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.Column("asked", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("error", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=True),
        sa.Column("precision", sa.String(), nullable=True),
        sa.Column("host_type", sa.String(), nullable=True),
        sa.Column("num_parameters", sa.BigInteger(), nullable=True),
        sa.Column("num_steps", sa.Integer(), nullable=True),
        sa.Column("num_tokens", sa.BigInteger(), nullable=True),
        sa.Column("work_tokens", sa.Float(), nullable=True),
        *(
            sa.Column(f"seconds_{name}", sa.Float(), nullable=True)
            for name in ("p05", "p10", "p50", "p90", "p95")
        ),
        sa.Column("result", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("num_starts", sa.Integer(), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("actual_seconds", sa.Float(), nullable=True),
        sa.Column("actual_steps", sa.Integer(), nullable=True),
        sa.Column("actual_tokens", sa.BigInteger(), nullable=True),
        sa.Column("is_counted", sa.Boolean(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_expires_at", _TIME, nullable=True),
        sa.Column("claimed_at", _TIME, nullable=True),
        sa.Column("not_before", _TIME, server_default=_NOW, nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_forecasts_project_id_projects")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_forecasts_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_forecasts")),
        sa.UniqueConstraint("job_id", name=op.f("uq_forecasts_job_id")),
    )
    for columns in (["project_id", "created_at", "id"], ["project_id", "claimed_at"]):
        op.create_index(op.f(f"ix_forecasts_{'_'.join(columns)}"), "forecasts", columns)
    op.create_index(
        "ix_forecasts_unfinished",
        "forecasts",
        ["created_at"],
        postgresql_where=sa.text("status = 'in_progress'"),
    )
    op.create_index(
        "ix_forecasts_counted",
        "forecasts",
        ["host_type", "ended_at"],
        postgresql_where=sa.text("is_counted"),
    )
    op.add_column("jobs", sa.Column("forecast", postgresql.JSONB(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "forecast")
    op.drop_table("forecasts")
    op.drop_table("workers")
