"""Processes that run one batch each. They are forked off a process that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerContext, ForkServerProcess

from errands.batches import run as batch_run
from errands.errands import Errands
from foundation.settings import Settings
from storage import queue
from storage.inference.batches import BatchRow
from storage.sweep import free_leases_of_dead


def start(settings: Settings, batch_id: str, **env: str) -> ForkServerProcess:
    """A process of its own with `env` in its environment."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_main, args=(settings, batch_id, env))
    process.start()
    return process


def _main(settings: Settings, batch_id: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    queue.app.conf.broker_url = settings.broker_url
    errands = Errands(settings)
    free_leases_of_dead(errands, BatchRow)
    batch_run.run(errands, batch_id)
    errands.close()
