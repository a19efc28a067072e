"""A job's events on the screen: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import typer
from openai.types.fine_tuning import FineTuningJobEvent
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from .output import clock_time, printable

WINDOW_S = 60

ShowEvent = Callable[[FineTuningJobEvent], None]


@dataclass(frozen=True)
class StepReport:
    """The numbers of a metrics event."""

    created_at: int
    """Unix time in whole seconds."""
    step: int
    total_steps: int
    train_loss: float
    valid_loss: float | None
    """Over the whole validation file where the event has that, otherwise over a batch of it."""
    num_tokens: int
    """Trained on since the job began."""

    @classmethod
    def read(cls, event: FineTuningJobEvent) -> StepReport | None:
        """None where the event reports no step."""
        data = event.data
        if not isinstance(data, Mapping) or "step" not in data or not data.get("total_steps"):
            return None
        full_valid_loss = data.get("full_valid_loss")
        return cls(
            created_at=event.created_at,
            step=data["step"],
            total_steps=data["total_steps"],
            train_loss=data["train_loss"],
            valid_loss=full_valid_loss if full_valid_loss is not None else data.get("valid_loss"),
            num_tokens=data.get("num_tokens") or 0,
        )


class Pace:
    """How fast the job has been over its last minute, by the times of its events."""

    def __init__(self) -> None:
        self._recent: deque[StepReport] = deque()

    def add(self, report: StepReport) -> None:
        if self._recent and report.step <= self._recent[-1].step:
            self._recent.clear()  # the job went back to a checkpoint
        self._recent.append(report)
        while len(self._recent) > 2 and report.created_at - self._recent[1].created_at >= WINDOW_S:
            self._recent.popleft()

    @property
    def tokens_per_s(self) -> float | None:
        """None until a second has passed."""
        elapsed_s, first, last = self._span()
        return (last.num_tokens - first.num_tokens) / elapsed_s if elapsed_s else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the last step at this pace; None until a second has passed."""
        elapsed_s, first, last = self._span()
        if not elapsed_s:
            return None
        return (last.total_steps - last.step) * elapsed_s / (last.step - first.step)

    def _span(self) -> tuple[int, StepReport, StepReport]:
        first, last = self._recent[0], self._recent[-1]
        return last.created_at - first.created_at, first, last

    def __str__(self) -> str:
        if self.tokens_per_s is None or self.left_s is None:
            return ""
        return f"{self.tokens_per_s:,.0f} tokens/s, {duration(self.left_s)} left"


def duration(seconds: float) -> str:
    """A time as people write it, for example 0:42, 12:05 or 3:00:09."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


@contextmanager
def event_display(*, as_json: bool) -> Iterator[ShowEvent]:
    """What to do with each event, for stdout as it is."""
    if as_json:
        yield lambda event: typer.echo(event.to_json(indent=None))
    elif sys.stdout.isatty():
        with _progress_bar() as show_event:
            yield show_event
    else:
        yield _plain_lines()


def _plain_lines() -> ShowEvent:
    pace = Pace()

    def show_event(event: FineTuningJobEvent) -> None:
        line = f"{clock_time(event.created_at)} {printable(event.message)}"
        if report := StepReport.read(event):
            pace.add(report)
            line = ", ".join(filter(None, (line, str(pace))))
        typer.echo(line)

    return show_event


@contextmanager
def _progress_bar() -> Iterator[ShowEvent]:
    progress = Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[pace]}"),
        console=Console(highlight=False),
    )
    task = progress.add_task("", start=True, total=None, visible=False, losses="", pace="")
    pace = Pace()
    valid_loss: float | None = None

    def show_event(event: FineTuningJobEvent) -> None:
        nonlocal valid_loss
        report = StepReport.read(event)
        if report is None:
            style = {"warn": "yellow", "error": "red"}.get(event.level, "")
            text = f"{clock_time(event.created_at)} {printable(event.message)}"
            progress.console.print(Text(text, style=style))
            return
        pace.add(report)
        valid_loss = valid_loss if report.valid_loss is None else report.valid_loss
        losses = f"loss {report.train_loss:.2f}"
        if valid_loss is not None:
            losses += f", valid {valid_loss:.2f}"
        progress.update(
            task,
            completed=report.step,
            total=report.total_steps,
            visible=True,
            losses=losses,
            pace=str(pace),
        )

    with progress:
        yield show_event
