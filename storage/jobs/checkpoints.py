"""Checkpoints: the state of a job's weights at the end of an epoch, usable as a model."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage import pages
from storage.database import Base, CreatedAt, Json
from storage.ids import new_id

KEPT = 3
"""How many of a job's checkpoints stay, newest first, as the real service does."""


class CheckpointRow(Base):
    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[int]
    model_name: Mapped[str]
    metrics: Mapped[Json]
    created_at: Mapped[CreatedAt]


def create(
    session: Session, *, job_id: str, step: int, model_name: str, metrics: Json
) -> CheckpointRow:
    row = CheckpointRow(
        id=new_id("ftckpt_"), job_id=job_id, step=step, model_name=model_name, metrics=metrics
    )
    session.add(row)
    session.flush()
    return row


def at_step(session: Session, job_id: str, step: int) -> CheckpointRow | None:
    return session.scalar(
        select(CheckpointRow).where(CheckpointRow.job_id == job_id, CheckpointRow.step == step)
    )


def all(session: Session, job_id: str) -> list[CheckpointRow]:
    """Those that are kept, oldest first."""
    query = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    return list(session.scalars(query.order_by(CheckpointRow.step)))


def page(
    session: Session, job_id: str, *, after: str | None, limit: int
) -> pages.RowPage[CheckpointRow]:
    """Newest first. The caller has checked that the job is the project's."""
    query = select(CheckpointRow).where(CheckpointRow.job_id == job_id)
    return pages.read(
        session,
        query,
        CheckpointRow.step,
        after=session.scalar(query.where(CheckpointRow.id == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def remove_old(session: Session, job_id: str, *, best_step: int | None = None) -> list[str]:
    """Take away all but the newest KEPT and the best one; gives the names of the models that they were."""
    newest = (
        select(CheckpointRow.id)
        .where(CheckpointRow.job_id == job_id)
        .order_by(CheckpointRow.step.desc())
        .limit(KEPT)
    )
    return list(
        session.scalars(
            delete(CheckpointRow)
            .where(
                CheckpointRow.job_id == job_id,
                CheckpointRow.id.not_in(newest),
                CheckpointRow.step.is_distinct_from(best_step),
            )
            .returning(CheckpointRow.model_name)
            .execution_options(synchronize_session=False)
        )
    )
