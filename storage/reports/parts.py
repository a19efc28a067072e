"""What is known of a report that is being made: answers in pieces, and sections that are done.

Each part is a blob and then a row, so a report whose maker was killed goes on behind the last row.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.blobs.blobs import BlobInfo
from storage.database import Base, Int64

DONE = 0
"""The number of the part that is a section as a whole."""


class ReportPartRow(Base):
    __tablename__ = "report_parts"

    report_id: Mapped[str] = mapped_column(ForeignKey("reports.id"), primary_key=True)
    section: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """0 is the section's own, what else it asked is in those from 1."""
    key: Mapped[str]
    size_bytes: Mapped[Int64]
    sha256: Mapped[str]


def add(session: Session, report_id: str, section: str, number: int, blob: BlobInfo) -> None:
    """The caller holds the report."""
    row = ReportPartRow(
        report_id=report_id,
        section=section,
        number=number,
        key=blob.key,
        size_bytes=blob.size_bytes,
        sha256=blob.sha256,
    )
    session.add(row)
    session.flush()


def of_report(session: Session, report_id: str) -> list[ReportPartRow]:
    query = select(ReportPartRow).where(ReportPartRow.report_id == report_id)
    return list(session.scalars(query.order_by(ReportPartRow.section, ReportPartRow.number)))


def remove(session: Session, report_id: str) -> None:
    """The report has ended; the blobs may go once that is committed."""
    session.execute(delete(ReportPartRow).where(ReportPartRow.report_id == report_id))
