"""`python -m training`: the trainer process, which stays, takes jobs as they come and a step of each in turn."""

from __future__ import annotations

import argparse
import logging
import os
from functools import partial

from .messages import Exit, Ready, Start
from .pipes import Link
from .sharing.turns import Turns


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training")
    parser.add_argument("--resident-bytes", type=int, default=0, help="of bases kept between jobs")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    link = Link()
    # The link listens already: importing torch takes seconds.
    from .process import JobRunner
    from .sharing import fused

    runner, turns = JobRunner(arguments.resident_bytes), Turns(together=fused.make_together)
    link.send(Ready(pid=os.getpid()))
    while True:
        command = link.next() if turns.is_empty else link.poll()
        match command:
            case Exit():
                break
            case Start():
                job = runner.turns(command, partial(link.stop_reason, command.job_id))
                turns.add(command.share, job)
            case None:
                link.send(turns.next_report())
    # Not by returning: the thread that reads commands waits in a read that the interpreter would wait for.
    os._exit(0)


if __name__ == "__main__":
    main()
