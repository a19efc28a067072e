"""What there is to see in a job's reports."""

from __future__ import annotations

from collections.abc import Sequence

from training.messages import CheckpointSaved, Report, StepMetrics


def steps_of(reports: Sequence[Report]) -> list[StepMetrics]:
    """The metrics without the one value that a clock gives."""
    return [r.model_copy(update={"step_time_s": 0}) for r in reports if isinstance(r, StepMetrics)]


def checkpoints_of(reports: Sequence[Report]) -> list[CheckpointSaved]:
    return [report for report in reports if isinstance(report, CheckpointSaved)]
