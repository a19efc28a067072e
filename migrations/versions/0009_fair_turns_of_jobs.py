"""Fair turns for jobs, and when cancelled ones ended"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index(op.f("ix_jobs_status_lease_expires_at"), table_name="jobs")
    op.create_index(
        "ix_jobs_runnable",
        "jobs",
        ["project_id", "created_at", "id"],
        postgresql_where=sa.text("status IN ('validating_files', 'queued', 'running')"),
    )
    op.create_index(
        "ix_jobs_leased",
        "jobs",
        ["project_id"],
        postgresql_where=sa.text("lease_owner IS NOT NULL"),
    )
    op.create_index(op.f("ix_jobs_project_id_claimed_at"), "jobs", ["project_id", "claimed_at"])
    # Their last event says when that was.
    op.execute(
        "UPDATE jobs SET finished_at = events.created_at FROM events "
        "WHERE events.job_id = jobs.id AND events.key = 'cancelled' "
        "AND jobs.status = 'cancelled' AND jobs.finished_at IS NULL"
    )


def downgrade() -> None:
    op.execute("UPDATE jobs SET finished_at = NULL WHERE status = 'cancelled'")
    op.drop_index(op.f("ix_jobs_project_id_claimed_at"), table_name="jobs")
    op.drop_index("ix_jobs_leased", table_name="jobs")
    op.drop_index("ix_jobs_runnable", table_name="jobs")
    op.create_index(op.f("ix_jobs_status_lease_expires_at"), "jobs", ["status", "lease_expires_at"])
    op.drop_column("jobs", "claimed_at")
