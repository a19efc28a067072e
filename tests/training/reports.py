"""What there is to see in a job's reports, and a job that is killed and goes on."""

from __future__ import annotations

from collections.abc import Sequence

from tests.training import jobs
from training.messages import CheckpointSaved, Report, Start, StepMetrics


def steps_of(reports: Sequence[Report]) -> list[StepMetrics]:
    """The metrics without the one value that a clock gives."""
    return [r.model_copy(update={"step_time_s": 0}) for r in reports if isinstance(r, StepMetrics)]


def checkpoints_of(reports: Sequence[Report]) -> list[CheckpointSaved]:
    return [report for report in reports if isinstance(report, CheckpointSaved)]


def killed_and_resumed(job: Start, killed_at: int) -> tuple[list[Report], list[Report]]:
    """Up to the checkpoint of that step, where the job is abandoned as by kill -9, and on from it to the end."""
    before: list[Report] = []
    for report in jobs.run(job):
        before.append(report)
        if isinstance(report, CheckpointSaved) and report.step == killed_at:
            break
    resume_from = checkpoints_of(before)[-1].path
    return before, list(jobs.run(job.model_copy(update={"resume_from": resume_from})))
