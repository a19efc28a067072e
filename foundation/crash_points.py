"""Places where a test may kill the process: LUTHIER_CRASH_AT=<name> ends it there, as a power cut would.

With `<name>:3` it ends the third time that it comes there.
"""

from __future__ import annotations

import os
from collections import Counter

ENV = "LUTHIER_CRASH_AT"

NAMES = (
    "after_claim",
    "after_validation",
    "after_config",
    "after_start",
    "after_upload",
    "before_checkpoint_commit",
    "after_checkpoint_commit",
    "after_final_checkpoint",
    "after_result_file",
    "before_succeed",
    "after_succeed",
)
"""Of a worker, in the order in which a job comes by."""
TRAINER_NAMES = ("after_update", "before_checkpoint_rename", "after_checkpoint_rename")
"""Of the trainer, which has the worker's environment: between an update and its report, and around the moment in which a
checkpoint begins to exist."""

_visits: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """End the process here, without a word to anybody, if the environment asks for it."""
    if (asked := os.environ.get(ENV)) is None:
        return
    wanted, _, visit = asked.partition(":")
    if wanted == name:
        _visits[name] += 1
        if _visits[name] == int(visit or 1):
            os._exit(137)
