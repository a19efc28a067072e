"""Drives the trainer through one job: hands it the orders, records what it reports, stops it in time."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import structlog
from sqlalchemy import func
from sqlalchemy.orm import Session

from foundation.crash_points import crash_point
from storage.forecasts import forecasts
from storage.jobs import events
from storage.leases import LostLease, Stopped
from training.messages import (
    Alert,
    Answer,
    CheckpointSaved,
    Failed,
    Finished,
    Ping,
    Pong,
    Report,
    Request,
    Start,
    Started,
    StepMetrics,
    Stop,
)
from worker import environment
from worker.aside import is_small
from worker.endings import JobFailed, Paused, Setback, UnusableState
from worker.lease import Lease
from worker.loss_reading import LossReading
from worker.trainer import Trainer, TrainerDied
from worker.trainer_memory import TrainerMemory
from worker.worker import Worker

from . import progress, publish, wandb_runs

POLL_S = 0.25
STOP_S = 6.0
"""So long the trainer has to write a checkpoint when the worker must end."""
ABANDON_S = 10.0
"""So long it has to leave a job that is not ours any more."""
ABANDON_BESIDE_OTHERS_S = 120.0

log = structlog.get_logger()


def train(worker: Worker, lease: Lease, start: Start) -> None:
    """Train to the end, every checkpoint published; raises JobFailed, Setback, UnusableState,
    LostLease, Paused and Stopped.
    """
    job = lease.job
    with worker.occupancy.taken(
        job.id,
        start.config.base_path,
        is_alone=job.crashes > 0,
        check=lambda: worker.check(lease),
    ):
        supervision = _Supervision(worker, lease, start)
        if not job.crashes and is_small(start):
            worker.aside.make_way()
        with supervision.trainer.listening(job.id):
            try:
                supervision.run()
            except Setback as setback:
                setback.step = supervision.step
                # Whatever state it is in: the next attempt gets a fresh one.
                supervision.trainer.kill()
                raise
            finally:
                lease.on_lost = lambda: None


class _Supervision:
    """One job in the trainer."""

    def __init__(self, worker: Worker, lease: Lease, start: Start) -> None:
        self.step = 0
        """The last one that was recorded, or the one that training began behind."""
        self.trainer = worker.trainer()
        self._worker = worker
        self._lease = lease
        self._start = start
        self._forecast_s = forecast_s = (lease.job.forecast or {}).get("seconds", {}).get("p50")
        self._pace = progress.Pace(forecast_s)
        self._memory = TrainerMemory(self.trainer.pid)
        self._reading: LossReading | None = None
        self._is_finished = False
        """The trainer is done with the job."""
        self._state = Path(start.resume_from) if start.resume_from else None
        """The folder of the newest checkpoint, or of the one that training began from."""
        self._state_step = 0
        self._is_told_to_stop = False
        self._stop_by: float | None = None
        folder = worker.settings.data_dir / "wandb"
        self._wandb_runs = wandb_runs.WandbRuns(lease, start.config, folder)

    def run(self) -> None:
        self._lease.on_lost = self._cancel
        self.trainer.send(self._start)
        try:
            while not self._is_finished:
                reports = self.trainer.receive(POLL_S, self._start.job_id)
                self._is_finished = any(isinstance(r, Finished | Failed) for r in reports)
                self._memory.look()
                self._lease.check()
                for group in _by_kind(reports):
                    self._handle(group)
                if not self._is_finished:
                    self._watch_for_stop()
        except TrainerDied:
            raise
        except BaseException:
            if not self._is_finished:
                self._abandon()
            raise
        finally:
            is_failed = isinstance(sys.exception(), JobFailed | LostLease)
            self._wandb_runs.close(is_failed=is_failed)

    def _handle(self, group: list[Report]) -> None:
        """Reports of one kind, in the order in which they came."""
        first = group[0]
        if isinstance(first, StepMetrics):
            self._record_steps([r for r in group if isinstance(r, StepMetrics)])
            return
        for report in group:
            match report:
                case Started():
                    self._record_start(report)
                case Alert():
                    self._record_alert(report)
                case CheckpointSaved():
                    publish.checkpoint(self._worker.blobs, self._lease, report)
                    self._keep(report)
                    self._worker.occupancy.open(self._start.job_id)
                    # All that follows is a Finished, which nobody needs.
                    self._is_finished = self._is_finished or report.is_last
                case Request(question=Ping()):
                    self.trainer.send(Answer(id=report.id, reply=Pong()))
                case Failed():
                    raise _ending(report, self._publish_last_good(report))
                case Finished(outcome="stopped"):
                    self._lease.check()
                    if self._lease.is_pausing:
                        self._publish_snapshot(report)
                        raise Paused
                    raise Stopped

    def _keep(self, saved: CheckpointSaved) -> None:
        """This one's folder until there is a newer one: a pause may make a model of it."""
        if self._state is not None:
            shutil.rmtree(self._state, ignore_errors=True)
        self._state, self._state_step = Path(saved.path), saved.step

    def _publish_snapshot(self, finished: Finished) -> None:
        """The state that a pause leaves is a model to try out, if a step was taken at all."""
        is_newest = self._state_step == finished.step > 0
        if self._state is not None and is_newest:
            publish.snapshot(self._worker.blobs, self._lease, self._state, finished.step)

    def _publish_last_good(self, failed: Failed) -> str:
        """What was learnt before a job broke down stays usable as a model; says so for the error."""
        if failed.code != "nan_loss" or self._state is None or not self._state_step:
            return ""
        publish.snapshot(self._worker.blobs, self._lease, self._state, self._state_step)
        return f" The checkpoint of step {self._state_step} was kept and can be used as a model."

    def _record_start(self, started: Started) -> None:
        self.step = self._state_step = started.step
        config = self._start.config
        self._reading = LossReading(config, -(-started.num_examples // config.batch_size))

        def write(session: Session) -> None:
            forecasts.started(session, started.job_id)
            events.add(session, started.job_id, "started", "Fine-tuning job started")
            for warning in started.warnings:
                events.warn(session, started.job_id, warning)

        known = self._lease.job.train_config or {}
        train_config = {
            **known,
            "num_examples": started.num_examples,
            "environment": environment.read(),
        }
        finish = None
        if self._forecast_s is not None and started.total_steps:
            left_s = self._forecast_s * (1 - started.step / started.total_steps)
            finish = func.clock_timestamp() + timedelta(seconds=left_s)
        self._lease.write(
            write, status="running", train_config=train_config, estimated_finish=finish
        )
        crash_point("after_start")

    def _record_steps(self, steps: list[StepMetrics]) -> None:
        remaining_s = [self._pace.remaining_s(metrics) for metrics in steps][-1]
        grown_bytes = self._memory.grown()
        read = [told for m in steps if self._reading and (told := self._reading.see(m))]

        def write(session: Session) -> None:
            if grown_bytes is not None:
                forecasts.saw_memory(session, steps[-1].job_id, grown_bytes)
            for metrics in steps:
                events.add(
                    session,
                    metrics.job_id,
                    f"step:{metrics.step}",
                    progress.text(metrics),
                    type="metrics",
                    data=progress.data(metrics),
                )
            for text, data in read:
                events.add(session, steps[-1].job_id, "reading", text, data=data)

        finish = func.clock_timestamp() + timedelta(seconds=remaining_s)
        self._lease.write(write, estimated_finish=finish)
        self.step = steps[-1].step
        for metrics in steps:
            self._wandb_runs.log(metrics)

    def _record_alert(self, alert: Alert) -> None:
        def write(session: Session) -> None:
            events.add(
                session,
                alert.job_id,
                f"alert:{alert.key}",
                alert.text,
                level=alert.level,
                data={"step": alert.step},
            )

        self._lease.write(write)

    def _watch_for_stop(self) -> None:
        """When the worker is told to end or the job to pause, have a checkpoint made and wait for it.

        For a pause as long as it takes: a trainer that hangs is found out elsewhere.
        """
        is_ending = self._worker.is_stopping.is_set()
        if (is_ending or self._lease.is_pausing) and not self._is_told_to_stop:
            self._is_told_to_stop = True
            self.trainer.send(Stop(job_id=self._start.job_id, reason="checkpoint"))
        if not is_ending:
            return
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_S
        elif time.monotonic() > self._stop_by:
            self.trainer.kill()
            self._is_finished = True
            raise Stopped

    def _cancel(self) -> None:
        with contextlib.suppress(TrainerDied):
            self.trainer.send(Stop(job_id=self._start.job_id, reason="cancel"))

    def _abandon(self) -> None:
        """Nobody wants what the trainer does for this job: have it stop, or end it."""
        self._cancel()
        try:
            _wait_until_free(self.trainer, self._start.job_id)
        except TrainerDied:
            log.warning("trainer.died_while_stopping", job_id=self._start.job_id)


def _ending(failed: Failed, consolation: str) -> JobFailed | Setback | UnusableState:
    if failed.code == "invalid_checkpoint":
        return UnusableState(failed.message)
    if failed.is_user_error:
        return JobFailed(failed.code, failed.message + consolation, failed.param)
    return Setback(failed.message, code=failed.code)


def _wait_until_free(trainer: Trainer, job_id: str) -> None:
    # Beside others it must wait for its turn to hear of it, and to end the trainer would harm them.
    within_s = ABANDON_BESIDE_OTHERS_S if trainer.num_jobs > 1 else ABANDON_S
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if any(isinstance(r, Finished | Failed) for r in trainer.receive(POLL_S, job_id)):
            return
    log.warning("trainer.does_not_stop", job_id=job_id)
    trainer.kill()


def _by_kind(reports: Iterable[Report]) -> list[list[Report]]:
    """Neighbours of one kind together: many quick steps become one transaction."""
    return [list(group) for _, group in itertools.groupby(reports, key=type)]
