"""What went wrong, in the codes and words that a user sees, and whether trying again can help."""

from __future__ import annotations

import errno

from foundation import memory
from modeling.artifacts.artifact import ArtifactError

from .checkpoint import CheckpointError
from .course import Diverged
from .memory import OutOfMemory, is_out_of_memory
from .messages import Failed, Start


def describe(error: Exception, start: Start) -> Failed:
    """The report for an error that ended a job."""

    def failed(
        code: str,
        message: str,
        *,
        param: str | None = None,
        is_user_error: bool,
    ) -> Failed:
        return Failed(
            job_id=start.job_id,
            code=code,
            message=message,
            param=param,
            is_user_error=is_user_error,
        )

    match error:
        case Diverged():
            return failed("nan_loss", _advice(error, start), is_user_error=True)
        case ArtifactError():
            message = f"The model to continue from cannot be used: {error}"
            return failed("invalid_model", message, param="model", is_user_error=True)
        case CheckpointError():
            message = f"The job cannot resume: {error}"
            return failed("invalid_checkpoint", message, is_user_error=False)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            message = "The trainer's disk is full"
            return failed("insufficient_disk", message, is_user_error=False)
        case OutOfMemory():
            # It was tried with less at a time, or cannot be tried.
            return failed("out_of_memory", str(error), is_user_error=True)
        case _ if is_out_of_memory(error):
            return failed("out_of_memory", _memory_advice(error, start), is_user_error=False)
        case _:
            message = f"The trainer failed: {type(error).__name__}: {error}"
            return failed("server_error", message, is_user_error=False)


def _advice(error: Diverged, start: Start) -> str:
    multiplier = start.config.learning_rate_multiplier
    return f"{error}. Lower learning_rate_multiplier (it was {multiplier:g}) and try again."


def _memory_advice(error: Exception, start: Start) -> str:
    kind = start.config.trainable.kind
    others = "" if kind in ("lora", "prefix") else ", and so does the tuning lora or prefix"
    available = memory.available_bytes()
    there = f" There are {memory.gigabytes(available)} left ({error})." if available else ""
    return (
        f"The machine has too little memory for the tuning {kind} of this base.{there} A smaller base, or examples "
        f"shorter than {start.config.max_seq_len} tokens, help{others}."
    )
