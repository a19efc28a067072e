"""From where a job goes on: the newest checkpoint whose blob is whole."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from foundation.errors import BlobCorrupt, BlobMissing
from storage.blobs import archive
from storage.blobs.blobs import BlobStore
from storage.jobs import events
from worker.lease import Lease

log = structlog.get_logger()


def fetch(blobs: BlobStore, lease: Lease, folder: Path) -> Path | None:
    """The unpacked checkpoint to resume from, or None to begin at the beginning.

    Damaged ones are passed over, and the job's owner is told so.
    """
    points = lease.job.resume_points
    damaged: list[int] = []
    for point in points:
        tar = folder / "resume.tar"
        try:
            blobs.get_file(
                point["key"], tar, size_bytes=point["size_bytes"], sha256=point["sha256"]
            )
        except (BlobCorrupt, BlobMissing) as error:
            log.error("resume.damaged", job_id=lease.job.id, key=point["key"], error=str(error))
            damaged.append(point["step"])
            continue
        unpacked = archive.unpack(tar, folder / "resume")
        tar.unlink()
        _tell(lease, damaged, point["step"])
        return unpacked
    _tell(lease, damaged, 0)
    return None


def _tell(lease: Lease, damaged: list[int], step: int) -> None:
    if not damaged:
        return
    lost = ", ".join(str(each) for each in damaged)
    text = f"The saved state of step {lost} is damaged; training goes on from step {step}"

    def write(session: Session) -> None:
        key = f"resume:{lease.claim.lease_token}"
        events.add(session, lease.job.id, key, text, level="warn", data={"step": step})

    lease.write(write)


def discard_newest(lease: Lease, reason: str) -> None:
    """Forget the state that the trainer could not use, and say so. Raises LostLease."""
    text = f"{reason}. Trying an earlier state"

    def write(session: Session) -> None:
        key = f"resume:{lease.claim.lease_token}"
        events.add(session, lease.job.id, key, text, level="warn", data={})

    lease.write(write, resume_points=lease.job.resume_points[1:])
