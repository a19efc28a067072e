"""`python -m training`: the trainer process, which stays and takes one job after the other."""

from __future__ import annotations

import logging
import os
from functools import partial

from .messages import Exit, Ready
from .pipes import Link


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    link = Link()
    # The link listens already: importing torch takes seconds.
    from .process import JobRunner

    runner = JobRunner()
    link.send(Ready(pid=os.getpid()))
    while not isinstance(command := link.next(), Exit):
        for report in runner.reports(command, partial(link.stop_reason, command.job_id)):
            link.send(report)
    # Not by returning: the thread that reads commands waits in a read that the interpreter would wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
