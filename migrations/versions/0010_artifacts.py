"""Artifacts of any kind, where adapters were"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_CONSTRAINTS = (
    ("artifacts", "pk_adapters", "pk_artifacts"),
    ("artifacts", "fk_adapters_project_id_projects", "fk_artifacts_project_id_projects"),
    ("models", "fk_models_adapter_id_adapters", "fk_models_artifact_id_artifacts"),
)
_INDEXES = (
    ("ix_adapters_project_id", "ix_artifacts_project_id"),
    ("ix_models_adapter_id", "ix_models_artifact_id"),
)


def upgrade() -> None:
    op.rename_table("adapters", "artifacts")
    op.alter_column("models", "adapter_id", new_column_name="artifact_id")
    op.alter_column("jobs", "init_adapter_id", new_column_name="init_artifact_id")
    for table, old, new in _CONSTRAINTS:
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")
    for old, new in _INDEXES:
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    for name, kind in (("kind", sa.String()), ("spec", postgresql.JSONB(astext_type=sa.Text()))):
        op.add_column("artifacts", sa.Column(name, kind, nullable=True))
    tensors = postgresql.JSONB(astext_type=sa.Text())
    op.add_column("artifacts", sa.Column("tensors", tensors, nullable=True))
    op.execute("UPDATE artifacts SET kind = 'lora', spec = jsonb_build_object('rank', rank)")
    # What else is to be known of them, their jobs' configuration says.
    op.execute(
        "UPDATE artifacts SET spec = spec || jsonb_build_object("
        " 'alpha', jobs.train_config #> '{config,alpha}',"
        " 'target_modules', jobs.train_config #> '{config,target_modules}')"
        " FROM models JOIN jobs ON jobs.id = models.job_id"
        " WHERE models.artifact_id = artifacts.id"
        " AND jobs.train_config #> '{config,alpha}' IS NOT NULL"
        " AND jobs.train_config #> '{config,target_modules}' IS NOT NULL"
    )
    for name in ("kind", "spec"):
        op.alter_column("artifacts", name, nullable=False)
    op.drop_column("artifacts", "rank")


def downgrade() -> None:
    lost = op.get_bind().scalar(
        sa.text("SELECT count(*) FROM artifacts WHERE kind <> 'lora' OR id LIKE 'artifact-%'")
    )
    if lost:
        raise RuntimeError(
            f"the version before would not find the weights of {lost} models that were made since; "
            "delete these models first"
        )
    begun = op.get_bind().scalar(
        sa.text(
            "SELECT count(*) FROM jobs WHERE status NOT IN ('succeeded', 'failed', 'cancelled')"
            " AND train_config #> '{config,trainable}' IS NOT NULL"
        )
    )
    if begun:
        raise RuntimeError(
            f"the version before could not go on with {begun} jobs that were begun since; let them "
            "end or cancel them first"
        )
    op.add_column("artifacts", sa.Column("rank", sa.Integer(), nullable=True))
    op.execute("UPDATE artifacts SET rank = (spec ->> 'rank')::integer")
    op.alter_column("artifacts", "rank", nullable=False)
    for name in ("tensors", "spec", "kind"):
        op.drop_column("artifacts", name)
    for old, new in _INDEXES:
        op.execute(f"ALTER INDEX {new} RENAME TO {old}")
    for table, old, new in _CONSTRAINTS:
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {new} TO {old}")
    op.alter_column("jobs", "init_artifact_id", new_column_name="init_adapter_id")
    op.alter_column("models", "artifact_id", new_column_name="adapter_id")
    op.rename_table("artifacts", "adapters")
