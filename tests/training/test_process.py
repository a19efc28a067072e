"""The process itself, over its pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training import jobs
from tests.training.reports import steps_of
from training.messages import (
    CheckpointSaved,
    Command,
    Exit,
    Failed,
    Finished,
    Heartbeat,
    Ready,
    Report,
    Started,
    StepMetrics,
    Stop,
    decode_report,
    encode,
)


class Process:
    """`python -m training` and the two pipes."""

    def __init__(self) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "training"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.stdin, self.stdout = self.popen.stdin, self.popen.stdout

    def send(self, command: Command) -> None:
        self.stdin.write(encode(command))
        self.stdin.flush()

    def reports(self) -> Iterator[Report]:
        """Up to the end of the job."""
        for line in self.stdout:
            if isinstance(report := decode_report(line), Heartbeat):
                continue
            yield report
            if isinstance(report, Finished | Failed):
                return

    def exit_code(self, timeout_s: float) -> int:
        return self.popen.wait(timeout_s)


@contextmanager
def process() -> Iterator[Process]:
    spawned = Process()
    try:
        yield spawned
    finally:
        spawned.popen.kill()
        spawned.popen.wait()
        spawned.stdin.close()
        spawned.stdout.close()


def until(trainer: Process, wanted: type[Report], step: int) -> list[Report]:
    """The reports up to the wanted one of a step."""
    reports: list[Report] = []
    for report in trainer.reports():
        reports.append(report)
        if isinstance(report, wanted) and getattr(report, "step", 0) == step:
            return reports
    raise AssertionError(f"no {wanted.__name__} of step {step}")


def test_process_runs_cancels_and_exits(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path)
    long_job = jobs.start(base_path, tmp_path, n_epochs=5000).model_copy(
        update={"job_id": "ftjob-2"}
    )
    with process() as trainer:
        assert next(trainer.reports()) == Ready(pid=trainer.popen.pid)
        trainer.send(job)
        reports = list(trainer.reports())
        assert isinstance(reports[0], Started)
        assert isinstance(reports[-1], Finished)
        assert reports[-1].outcome == "succeeded"
        assert len(steps_of(reports)) == 10

        trainer.send(Stop(job_id="ftjob-2", reason="cancel"))  # of an earlier run: forgotten
        trainer.send(long_job)
        until(trainer, StepMetrics, 5)
        trainer.send(Stop(job_id="ftjob-2", reason="cancel"))
        cancelled_at_s = time.monotonic()
        *_, last = trainer.reports()
        assert isinstance(last, Finished)
        assert last.outcome == "stopped"
        assert time.monotonic() - cancelled_at_s < 2
        trainer.send(Exit())
        assert trainer.exit_code(5) == 0


@pytest.mark.slow
def test_job_killed_in_its_process_resumes_bit_for_bit(base_path: Path, tmp_path: Path) -> None:
    unbroken = list(jobs.run(jobs.start(base_path, tmp_path / "unbroken")))
    job = jobs.start(base_path, tmp_path / "killed", checkpoint_interval_s=0)
    with process() as trainer:
        trainer.send(job)
        before = until(trainer, CheckpointSaved, 6)
        trainer.popen.send_signal(signal.SIGKILL)
    resumed = job.model_copy(update={"resume_from": str(tmp_path / "killed" / "step-6")})
    with process() as trainer:
        trainer.send(resumed)
        after = list(trainer.reports())
        assert steps_of(before) + steps_of(after) == steps_of(unbroken)
        weights = Path("step-10/artifact/adapter_model.safetensors")
        killed, whole = (tmp_path / name / weights for name in ("killed", "unbroken"))
        assert killed.read_bytes() == whole.read_bytes()

        # The same process, in the middle of another job, loses its supervisor.
        trainer.send(jobs.start(base_path, tmp_path, n_epochs=5000))
        until(trainer, StepMetrics, 2)
        closed_at_s = time.monotonic()
        trainer.stdin.close()
        assert trainer.exit_code(5) != 0
        assert time.monotonic() - closed_at_s < 2


def test_process_exits_when_its_stdin_closes_while_it_loads() -> None:
    with process() as trainer:
        trainer.stdin.close()
        assert trainer.exit_code(5) != 0


def test_process_ends_when_the_supervisor_speaks_nonsense() -> None:
    with process() as trainer:
        trainer.stdin.write(b"hello\n")
        trainer.stdin.flush()
        assert trainer.exit_code(10) == 2
