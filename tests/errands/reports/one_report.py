"""Processes that run one report each. They are forked off a process that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerContext, ForkServerProcess

from errands.errands import Errands
from errands.reports import asking
from errands.reports import run as report_run
from foundation.settings import Settings
from storage import queue
from storage.reports.reports import ReportRow
from storage.sweep import free_leases_of_dead
from tests.errands.reports.report_scene import compared_sections


def start(settings: Settings, report_id: str, **env: str) -> ForkServerProcess:
    """A process of its own with `env` in its environment, which keeps each answer at once."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_main, args=(settings, report_id, env))
    process.start()
    return process


def _main(settings: Settings, report_id: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    queue.app.conf.broker_url = settings.broker_url
    asking.FIRST_CHUNK_S = asking.CHUNK_GROWTH_S = 0.0
    report_run.all_sections = compared_sections  # type: ignore[attr-defined]
    errands = Errands(settings)
    free_leases_of_dead(errands, ReportRow)
    report_run.run(errands, report_id)
    errands.close()
