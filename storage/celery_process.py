"""A process that takes messages from one queue: how worker and errands begin."""

from __future__ import annotations

import importlib
import os
import sys
import warnings

from celery.platforms import SecurityWarning

from foundation import logs
from foundation.errors import LuthierError
from foundation.leash import exit_with_parent
from foundation.settings import Settings

from . import queue
from .schema import OtherSchema

NEEDS_AN_OPERATOR = 2
"""The exit status of a process that cannot work as it was set up."""


def leave(error: OtherSchema) -> None:
    """End at once: what this process would still write may mean something else by now.

    Its leases run out, and what it was at goes on elsewhere, as after any crash.
    """
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(NEEDS_AN_OPERATOR)


def run(tasks: str, queue_name: str, *, needs: tuple[str, ...]) -> int:
    """Run until told to stop; the exit status.

    `tasks` is the module that defines the tasks and hears Celery's signals, so a process imports one of them
    only. `needs` are the settings without which the process does not start.
    """
    exit_with_parent()
    logs.configure()
    try:
        settings = Settings.from_env().require(*needs)
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return NEEDS_AN_OPERATOR
    queue.app.conf.broker_url = settings.broker_url
    importlib.import_module(tasks)
    # Celery warns of root because of pickle, which the queue does not accept.
    warnings.simplefilter("ignore", SecurityWarning)
    options = ["--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    queue.app.worker_main(["--quiet", "worker", *options, "-Q", queue_name])
    return 0
