"""Reports: one of each job that has succeeded, made by the errands under a lease (`storage.leases`).

The row is written in the transaction that ends the job. What an attempt has found is kept in parts, so the next one goes on
behind it.

    queued -> running -> succeeded | failed
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage import leases
from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.ids import new_id
from storage.leases import Claim, Leased

from . import parts

Depth = Literal["auto", "full", "off"]
BLOB_PREFIX = "reports/"
# Any number will do, as long as every process uses the same.
_LOCK = 7_021_530_919
_IS_UNFINISHED = text("status IN ('queued', 'running')")


class ReportRow(Leased, Base):
    __tablename__ = "reports"
    LEASE_S = 30
    RUNNABLE = ("queued", "running")
    __table_args__ = (
        Index("ix_reports_unfinished", "created_at", postgresql_where=_IS_UNFINISHED),
        Index(None, "project_id", "claimed_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    depth: Mapped[str]
    """`auto` or `full`; a job that wants none has none."""
    asked: Mapped[Json]
    """What the job's creation said besides: `prompt`, `grader`, `target`."""
    status: Mapped[str] = mapped_column(default="queued")

    # How it went.
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Timestamp | None]
    section: Mapped[str | None]
    """That is being made."""
    num_answers: Mapped[int] = mapped_column(default=0)
    """Asked so far."""
    verdict: Mapped[str | None]
    """Its code."""
    sentence: Mapped[str | None]
    error: Mapped[Json | None]
    """`{code, message}`."""
    blob_key: Mapped[str | None]
    """Of the report itself, with the next two."""
    size_bytes: Mapped[Int64 | None]
    sha256: Mapped[str | None]

    @classmethod
    def when_claimed(cls) -> dict[str, Any]:
        return {"status": "running"}


def create(
    session: Session, *, project_id: str, job_id: str, depth: Depth, asked: Json
) -> ReportRow:
    """Run the errand after the commit."""
    row = ReportRow(
        id=new_id("ftreport-"), project_id=project_id, job_id=job_id, depth=depth, asked=asked
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, project_id: str, job_id: str) -> ReportRow | None:
    """Of the project's job."""
    return session.scalar(
        select(ReportRow).where(ReportRow.job_id == job_id, ReportRow.project_id == project_id)
    )


def claim(session: Session, owner: str, num_places: int) -> Claim[ReportRow] | None:
    """Take the one whose turn it is, if `owner` has a place for it."""
    return leases.claim_next(session, ReportRow, owner, num_places, lock=_LOCK)


def succeed(
    session: Session, held: Claim[ReportRow], *, verdict: str, sentence: str, blob: BlobInfo
) -> ReportRow:
    """The last write, which gives the lease up. Raises LostLease."""
    return _end(
        session,
        held,
        "succeeded",
        verdict=verdict,
        sentence=sentence,
        blob_key=blob.key,
        size_bytes=blob.size_bytes,
        sha256=blob.sha256,
    )


def fail(session: Session, held: Claim[ReportRow], code: str, message: str) -> ReportRow:
    """The last write, which gives the lease up. Raises LostLease."""
    return _end(session, held, "failed", error={"code": code, "message": message})


def again(session: Session, row: ReportRow, depth: Depth) -> ReportRow:
    """Have one that has ended made anew: what was found is forgotten."""
    changed = leases.changed(
        session,
        ReportRow,
        ReportRow.id == row.id,
        ReportRow.status.not_in(ReportRow.RUNNABLE),
        status="queued",
        depth=depth,
        crashes=0,
        num_answers=0,
        section=None,
        error=None,
        verdict=None,
        sentence=None,
        blob_key=None,
        finished_at=None,
        not_before=func.clock_timestamp(),
        **leases.nobodys(ReportRow),
    )
    if changed is None:
        return row
    parts.remove(session, row.id)
    return changed


def remove(session: Session, project_id: str, job_id: str) -> list[str] | None:
    """Take it away, whatever its state; gives its blobs' keys, None if there was none. Who makes it loses the lease."""
    row = session.scalar(
        select(ReportRow)
        .where(ReportRow.job_id == job_id, ReportRow.project_id == project_id)
        .with_for_update()
    )
    if row is None:
        return None
    keys = [part.key for part in parts.of_report(session, row.id)]
    parts.remove(session, row.id)
    session.delete(row)
    session.flush()
    return keys if row.blob_key is None else [*keys, row.blob_key]


def known_keys(session: Session, keys: list[str]) -> set[str]:
    """Those of the blobs' keys that belong to a report, or to one that is being made."""
    by_report: dict[str, list[str]] = {}
    for key in keys:
        by_report.setdefault(key.removeprefix(BLOB_PREFIX).partition("/")[0], []).append(key)
    found = session.execute(
        select(ReportRow.id, ReportRow.status, ReportRow.blob_key).where(
            ReportRow.id.in_(list(by_report))
        )
    )
    known: set[str] = set()
    for report_id, status, blob_key in found:
        known |= {
            key for key in by_report[report_id] if status in ReportRow.RUNNABLE or key == blob_key
        }
    return known


def _end(session: Session, held: Claim[ReportRow], status: str, **values: Any) -> ReportRow:
    row = leases.write(
        session,
        held,
        status=status,
        finished_at=func.clock_timestamp(),
        section=None,
        **leases.nobodys(ReportRow),
        **values,
    )
    parts.remove(session, row.id)
    return row
