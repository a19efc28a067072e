"""Weights & Biases: a job's metrics go to the runs that its `integrations` ask for.

The account is the operator's: WANDB_API_KEY in the worker's environment, or WANDB_MODE=offline, which keeps
the runs below the data directory for `wandb sync`. The library `wandb` is no dependency of Luthier; where it
is not installed, or has no key, the job's owner reads so in a warning and training goes on. Training never
waits for W&B: all that is sent goes through a thread of its own.

A run's id is the job's, so a job that goes on after a pause or a crash goes on with its run, and steps that
are told of again are dropped there.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy.orm import Session

from storage.jobs import events
from storage.jobs.jobs import JobRow
from storage.leases import LostLease
from training.messages import StepMetrics, TrainConfig
from worker.lease import Lease

from . import progress

MAX_TAG_CHARACTERS = 64
"""W&B refuses longer ones."""
_MAX_REASON_CHARACTERS = 200

_CONFIG = {"seed", "n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate"}
_OF_TRAINABLES = {"rank", "alpha", "num_virtual_tokens", "num_blocks", "train_head"}

Json = dict[str, Any]

log = structlog.get_logger()


class WandbRun(Protocol):
    """What is used of `wandb.Run`."""

    def log(self, data: Json, *, step: int) -> None: ...
    def finish(self, exit_code: int) -> None: ...


def missing(env: Mapping[str, str] = os.environ) -> str | None:
    """What keeps this process from sending to W&B, in words for the job's owner."""
    if importlib.util.find_spec("wandb") is None:
        return "the worker lacks the Python package wandb"
    if not env.get("WANDB_API_KEY") and env.get("WANDB_MODE") != "offline":
        return "the worker's environment has neither WANDB_API_KEY nor WANDB_MODE=offline"
    return None


def options(job: JobRow, config: TrainConfig, wanted: Json) -> Json:
    """The arguments of `wandb.init` for one of the job's integrations."""
    default_tags = ("openai/finetune", f"openai/{job.base_model}", f"openai/{job.id}")
    tags = [*(wanted.get("tags") or ()), *default_tags]
    return {
        "id": job.id,
        "project": wanted["project"],
        "entity": wanted.get("entity"),
        "name": wanted.get("name") or job.id,
        "tags": [tag[:MAX_TAG_CHARACTERS] for tag in dict.fromkeys(tags) if tag],
        "config": {
            "model": job.model,
            "training_file": job.training_file,
            "validation_file": job.validation_file,
            "method": config.method.kind,
            **config.model_dump(include=_CONFIG),
            "tuning": config.trainable.kind,
            **config.trainable.model_dump(include=_OF_TRAINABLES),
        },
    }


class WandbRuns:
    """The runs of one attempt at a job; without integrations there are none, and nothing happens."""

    def __init__(self, lease: Lease, config: TrainConfig, folder: Path) -> None:
        job = lease.job
        self._lease = lease
        self._senders: list[_Sender] = []
        wanted = [i["wandb"] for i in job.integrations or () if i.get("type") == "wandb"]
        if not wanted:
            return
        reason = missing()
        if reason is not None:
            self._warn(reason)
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._senders = [_Sender(options(job, config, each), folder, self._warn) for each in wanted]

    def log(self, metrics: StepMetrics) -> None:
        data = {k: v for k, v in progress.data(metrics).items() if k != "step" and v is not None}
        for sender in self._senders:
            sender.put((metrics.step, {**data, "learning_rate": metrics.learning_rate}))

    def close(self, *, is_failed: bool) -> None:
        """What is still on its way goes on being sent; nobody waits for it."""
        for sender in self._senders:
            sender.put(1 if is_failed else 0)

    def _warn(self, reason: str) -> None:
        text = f"Metrics are not sent to Weights & Biases: {reason}"

        def write(session: Session) -> None:
            events.add(session, self._lease.job.id, "wandb", text, level="warn", data={})

        self._lease.write(write)


class _Sender:
    """One run, on a thread: `(step, data)` is logged, an exit code ends it."""

    def __init__(self, arguments: Json, folder: Path, warn: Any) -> None:
        self._arguments = arguments
        self._folder = folder
        self._warn = warn
        self._waiting: queue.SimpleQueue[tuple[int, Json] | int] = queue.SimpleQueue()
        threading.Thread(target=self._send, name="wandb", daemon=True).start()

    def put(self, item: tuple[int, Json] | int) -> None:
        self._waiting.put(item)

    def _send(self) -> None:
        try:
            run = self._open()
            while not isinstance(item := self._waiting.get(), int):
                step, data = item
                run.log(data, step=step)
            run.finish(exit_code=item)
        except Exception as error:
            # Whatever it is, the job does not depend on it.
            log.warning("wandb.failed", job_id=self._arguments["id"], error=repr(error))
            reason = " ".join(str(error).split())[:_MAX_REASON_CHARACTERS]
            with contextlib.suppress(LostLease):
                self._warn(reason or type(error).__name__)

    def _open(self) -> WandbRun:
        wandb = importlib.import_module("wandb")
        run: WandbRun = wandb.init(
            **self._arguments,
            dir=str(self._folder),
            resume="allow",
            # A worker has several jobs one after the other, and a job may have several runs.
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_stats=True
            ),
        )
        return run
