"""Fine-tune through the plain client, and show how the job comes along."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

POLL_INTERVAL_S = 1.0
PLAIN_INTERVAL_S = 10.0
"""How often a line is printed where no progress bar can be drawn."""

Metrics = dict[str, Any]


class JobError(RuntimeError):
    """The job ended otherwise than with a model."""


def upload(client: openai.OpenAI, path: Path) -> str:
    """The id of the uploaded file."""
    return client.files.create(file=path, purpose="fine-tune").id


def follow(
    client: openai.OpenAI, job_id: str, show: Callable[[FineTuningJobEvent], None]
) -> FineTuningJob:
    """Show each event once, oldest first, until the job has ended.

    Raises:
        JobError: it failed or was cancelled.
    """
    seen: set[str] = set()
    while True:
        # The job before its events: whatever it reported before it ended is then in the list.
        job = client.fine_tuning.jobs.retrieve(job_id)
        for event in _unseen(client, job_id, seen):
            show(event)
        if job.status == "succeeded":
            return job
        if job.status in ("failed", "cancelled"):
            reason = job.error.message if job.error else "no reason was given"
            raise JobError(f"job {job_id} {job.status}: {reason}")
        time.sleep(POLL_INTERVAL_S)


def _unseen(client: openai.OpenAI, job_id: str, seen: set[str]) -> list[FineTuningJobEvent]:
    events = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=50):  # newest first
        if event.id in seen:
            break
        events.append(event)
    seen.update(event.id for event in events)
    return events[::-1]


class Display:
    """Events as a progress bar on a terminal, as a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self.metrics: list[Metrics] = []
        """The data of every metrics event so far, by step."""
        self._console = console
        self._started_at_s = 0.0
        self._printed_at_s = 0.0
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, figures="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: FineTuningJobEvent) -> None:
        """Take in one event."""
        if event.type == "metrics" and isinstance(event.data, dict):
            self.metrics.append(event.data)
            self._advance(event.data)
        else:
            self._console.print(f"  {event.message}", style="dim", highlight=False)

    def _advance(self, step: Metrics) -> None:
        now_s = time.monotonic()
        if len(self.metrics) == 1:
            self._started_at_s = now_s
        done, total = step["step"], step["total_steps"]
        figures = self._figures(step, now_s - self._started_at_s)
        self._progress.update(self._task, completed=done, total=total, figures=figures)
        is_due = now_s - self._printed_at_s >= PLAIN_INTERVAL_S or done == total
        if not self._console.is_terminal and is_due:
            self._printed_at_s = now_s
            self._console.print(f"  step {done}/{total}  {figures}", highlight=False)

    def _figures(self, step: Metrics, elapsed_s: float) -> str:
        loss = step["train_loss"]
        figures = "loss not finite" if loss is None else f"loss {loss:.3f}"
        first = self.metrics[0]
        if elapsed_s > 0 and "num_tokens" in step:
            figures += f"  {(step['num_tokens'] - first['num_tokens']) / elapsed_s:.0f} tokens/s"
        if elapsed_s > 0 and not self._console.is_terminal:
            steps_per_s = (step["step"] - first["step"]) / elapsed_s
            if steps_per_s > 0:
                figures += f"  {(step['total_steps'] - step['step']) / steps_per_s:.0f} s left"
        return figures
