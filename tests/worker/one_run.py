"""Worker processes that run one job each. They are forked off a process that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess

from foundation.settings import Settings
from storage import queue
from storage.jobs.jobs import JobRow
from storage.sweep import free_leases_of_dead
from tests.worker.scene import FAKE_TRAINER, Scene
from worker.job.run import run
from worker.worker import Worker


def start(
    scene: Scene, trainer_command: Sequence[str] = FAKE_TRAINER, **env: str
) -> ForkServerProcess:
    """A process of its own with `env` in its environment."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_main, args=(scene.settings, env, trainer_command))
    process.start()
    return process


def _main(settings: Settings, env: dict[str, str], trainer_command: Sequence[str]) -> None:
    os.environ.update(env)
    queue.app.conf.broker_url = settings.broker_url
    worker = Worker(settings, trainer_command=trainer_command)
    free_leases_of_dead(worker, JobRow)
    run(worker)
    worker.close()
