"""Pauses: a job stops with a checkpoint, frees its trainer, and goes on from there when it is resumed.

A pause is a wish first (`pause_requested_at`), which the job's worker sees at its next write. A job that no
worker has pauses at once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from foundation.errors import InvalidRequest
from storage import leases
from storage.ids import new_id
from storage.leases import Claim

from . import events
from .jobs import TERMINAL, JobRow, impossible, locked


def pause(session: Session, project_id: str, job_id: str) -> JobRow:
    """Ask for a pause; gives the row as it was before, for OpenAI's clients know no state `paused`.

    A job that nobody works on is paused when this transaction ends. A worker that has it makes a
    checkpoint first. Asking again while it does so changes nothing.
    """
    row = locked(session, project_id, job_id)
    if row.status not in JobRow.RUNNABLE:
        raise impossible(row, "paused")
    if row.pause_requested_at is None:
        events.add(session, job_id, new_id("pausing:"), "Pause requested", data={})
        _write_behind(session, job_id, pause_requested_at=func.clock_timestamp())
    is_idle = select(JobRow.id).where(JobRow.id == job_id, leases.has_no_owner(JobRow))
    if session.scalar(is_idle) is not None:
        _set_paused(session, job_id)
    return row


def resume(session: Session, project_id: str, job_id: str) -> JobRow:
    """Let a paused job go on; ring the queue after the commit. A pause still to come is called off."""
    row = locked(session, project_id, job_id)
    is_pausing = row.status in JobRow.RUNNABLE and row.pause_requested_at is not None
    if row.status != "paused" and not is_pausing:
        if row.status in TERMINAL:
            raise impossible(row, "resumed")
        raise InvalidRequest(f"Job {job_id} is not paused.", param="fine_tune_id")
    text = "Pause called off" if is_pausing else "Job resumed"
    events.add(session, job_id, new_id("resumed:"), text, data={})
    row.pause_requested_at = None
    if not is_pausing:
        row.status = "queued"
        row.not_before = func.clock_timestamp()
    session.flush()
    return row


def release(session: Session, held: Claim[JobRow]) -> bool:
    """Give the job back as paused; False, and nothing done, if the pause was called off meanwhile."""
    if leases.renew(session, held).row.pause_requested_at is None:
        return False
    _set_paused(session, held.row.id, attempt=JobRow.attempt - 1)
    return True


def _set_paused(session: Session, job_id: str, **values: Any) -> None:
    _write_behind(
        session,
        job_id,
        status="paused",
        pause_requested_at=None,
        **leases.nobodys(JobRow),
        estimated_finish=None,
        **values,
    )
    events.add(session, job_id, new_id("paused:"), "Job paused", data={})


def _write_behind(session: Session, job_id: str, **values: Any) -> None:
    """Write columns and leave objects of the row, if there are any, as they are."""
    session.execute(
        update(JobRow)
        .where(JobRow.id == job_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
