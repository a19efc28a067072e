"""Places where a test may kill the process: LUTHIER_CRASH_AT=<name> ends it there, as a power cut would."""

from __future__ import annotations

import os

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


def crash_point(name: str) -> None:
    """End the process here, without a word to anybody, if the environment asks for it."""
    if os.environ.get(ENV) == name:
        os._exit(137)
