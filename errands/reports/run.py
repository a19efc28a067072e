"""One attempt at a report, from the claim to its end or to the process's: section by section, each kept when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog
from sqlalchemy.orm import Session

from errands import attempts
from errands.attempts import MAX_CRASHES, Errand
from errands.errands import REPORT_SLOTS, Errands
from foundation.crash_points import crash_point
from foundation.errors import BlobError, BlobMissing, Unavailable
from storage import queue
from storage.jobs import events, jobs
from storage.jobs.jobs import JobRow
from storage.leases import Claim, LostLease, Stopped
from storage.reports import reports
from storage.reports.reports import BLOB_PREFIX, ReportRow
from storage.transactions import OUT_OF_REACH

from . import data as report_data
from .context import ReportContext, ReportImpossible, Section, SectionSkipped, open_context
from .lease import ReportLease
from .sections import all_sections
from .verdict import TARGET, Judged, judge

SCHEMA_VERSION = 1
"""Of report.json: it grows when what stands there comes to mean something else; what is new beside it changes nothing."""
CRASH_POINTS = (
    "after_report_claim",
    "before_part_commit",
    "after_part_commit",
    "before_report_end",
    "after_report_end",
)
MIN_BUDGET_S = 60.0
FULL_BUDGET = 10.0
"""`full` may take so many times what `auto` may."""
EVENT = "report"
"""The key of the event that tells the verdict."""

log = structlog.get_logger()

Json = dict[str, Any]


def run(errands: Errands, report_id: str) -> None:
    """Somebody rang for a report: work on the one whose turn it is, if there is a slot for it."""
    attempts.run(errands, REPORT, report_id)


def _attempt(errands: Errands, claim: Claim[ReportRow], folder: Path) -> None:
    with ReportLease(errands, claim) as lease:
        _work(errands, lease, folder)


REPORT = Errand(
    "report",
    queue.RUN_REPORT,
    ReportRow,
    take=lambda session, owner: reports.claim(session, owner, REPORT_SLOTS),
    work=_attempt,
    crash_retry_s=5.0,
)


def _work(errands: Errands, lease: ReportLease, folder: Path) -> None:
    report = lease.report
    given_up = attempts.given_up(report)
    if given_up is not None:
        _fail(lease, "server_error", given_up)
        return
    try:
        _make(errands, lease, folder)
    except ReportImpossible as impossible:
        _fail(lease, impossible.code, impossible.message)
    except BlobError as error:
        if not isinstance(error, BlobMissing):
            log.error("report.blob_damaged", id=report.id, error=str(error))
        _fail(
            lease, "server_error", "What is stored of the job's files or of its report is damaged."
        )


def _make(errands: Errands, lease: ReportLease, folder: Path) -> None:
    report = lease.report
    with errands.sessions() as session:
        job = jobs.get(session, report.project_id, report.job_id)
    data = report_data.read(errands, lease, job)
    context = open_context(
        errands,
        lease,
        folder,
        job,
        data,
        concurrency=errands.settings.report_concurrency,
        budget_s=_budget_s(errands, report, job),
    )
    costs: dict[str, Json] = {}
    for section in all_sections():
        kept = context.parts.section(section.name)
        if kept is None:
            kept = _made(context, section)
            context.parts.keep_section(section.name, kept)
        context.found[section.name] = kept["found"]
        context.spent_s[section.name] = kept["seconds"]
        costs[section.name] = {"seconds": kept["seconds"], "cost": section.cost}
    _end(errands, context, costs)


def _budget_s(errands: Errands, report: ReportRow, job: JobRow) -> float:
    """Of a report that may take as long as its job did, times what the operator says."""
    trained_s = 0.0
    if job.finished_at is not None and job.claimed_at is not None:
        trained_s = (job.finished_at - job.claimed_at).total_seconds()
    budget_s = max(MIN_BUDGET_S, errands.settings.report_budget * trained_s)
    return budget_s * (FULL_BUDGET if report.depth == "full" else 1)


def _made(context: ReportContext, section: Section) -> Json:
    began_at = time.monotonic()
    context.lease.tell(section=section.name)
    found: Mapping[str, Any]
    try:
        found = section.make(context)
    except SectionSkipped as skipped:
        found = {"skipped": str(skipped)}
    except (LostLease, Stopped, Unavailable, BlobError, ReportImpossible, *OUT_OF_REACH):
        raise
    except Exception:
        if context.lease.report.crashes + 1 < MAX_CRASHES:
            raise
        # The others are worth having without it.
        log.exception("report.section_failed", id=context.lease.report.id, section=section.name)
        found = {"skipped": "it failed, several times; the server's log says how"}
    return {"found": dict(found), "seconds": round(time.monotonic() - began_at, 3)}


def _end(errands: Errands, context: ReportContext, costs: Mapping[str, Json]) -> None:
    report, lease = context.lease.report, context.lease
    judged = judge(
        context.found,
        why_none=context.data.why_none,
        target=float(context.asked.get("target") or TARGET),
    )
    whole = {
        "object": "fine_tuning.job.report",
        "schema_version": SCHEMA_VERSION,
        "id": report.id,
        "fine_tuning_job_id": report.job_id,
        "created_at": int(report.created_at.timestamp()),
        "model": context.tuned,
        "base_model": context.base,
        "depth": report.depth,
        "seed": context.seed,
        "verdict": _verdict(context, judged),
        "data": _about(context),
        **context.found,
        "costs": dict(costs),
    }
    key = f"{BLOB_PREFIX}{report.id}/{lease.claim.lease_token}-report.json"
    with errands.blobs.writer(key) as writer:
        writer.write(orjson.dumps(whole))
        blob = writer.commit()
    crash_point("before_report_end")

    def write(session: Session) -> None:
        reports.succeed(
            session, lease.claim, verdict=judged.code, sentence=judged.sentence, blob=blob
        )
        _tell(session, report, f"Report: {judged.code}: {judged.sentence}", {"code": judged.code})

    lease.end(write)
    crash_point("after_report_end")


def _verdict(context: ReportContext, judged: Judged) -> Json:
    """With what it goes by, and where the rows are that changed."""
    changed = context.found["changed"]
    return {
        "code": judged.code,
        "sentence": judged.sentence,
        "against": changed.get("against"),
        "difference": changed.get("difference"),
        "rows": f"/v1/luthier/fine_tuning/jobs/{context.job.id}/report.html#rows",
    }


def _about(context: ReportContext) -> Json:
    data = context.data
    task = data.task
    return {
        "holdout": data.how,
        "why_none": data.why_none,
        "holdout_rows": data.num_rows,
        "holdout_cases": len(data.holdout),
        "training_rows": len({case.line for case in data.training}),
        "task": None
        if task is None
        else {
            "type": task.type,
            "share": round(task.share, 4),
            "labels": list(task.labels)[:50],
            "fields": {name: known.kind for name, known in task.fields.items()},
        },
        "notes": data.notes,
    }


def _fail(lease: ReportLease, code: str, message: str) -> None:
    def write(session: Session) -> None:
        reports.fail(session, lease.claim, code, message)
        _tell(session, lease.report, f"There is no report: {message}", {"code": code}, level="warn")

    lease.end(write)


def _tell(
    session: Session,
    report: ReportRow,
    text: str,
    about: Json,
    *,
    level: events.Level = "info",
) -> None:
    """An event of the job, once for each time that the report is made."""
    # Events of a job are written under the lock of its row, so that none appears before an older one.
    jobs.locked(session, report.project_id, report.job_id)
    key = f"{EVENT}:{report.id}:{report.claimed_at}"
    events.add(
        session, report.job_id, key, text[:1000], level=level, data={"report": report.id, **about}
    )
