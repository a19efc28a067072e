"""Python graders: a user's `grade(sample, item)`, in the sandbox only."""

from __future__ import annotations

from typing import Any

from . import sandbox
from .reward import CannotGrade


async def reward(source: str, sample: dict[str, Any], item: dict[str, Any]) -> float:
    """Raises CannotGrade."""
    try:
        answer = await sandbox.grade(source, sample, item)
    except (sandbox.OutOfTime, sandbox.Crashed) as error:
        raise CannotGrade("python_grader_runtime_error", str(error)) from None
    except (sandbox.SandboxUnavailable, sandbox.SandboxFailed, OSError) as error:
        kind = type(error).__name__
        text = f"The sandbox could not be used: {error}."
        raise CannotGrade("python_grader_server_error", text, type=kind) from None
    if isinstance(answer, str):
        raise CannotGrade("python_grader_runtime_error", answer)
    return answer


async def problem(source: str) -> str | None:
    """What can be said against the source without running it. Raises SandboxUnavailable."""
    try:
        answer = await sandbox.grade(source, {}, {}, only_check=True)
    except (sandbox.OutOfTime, sandbox.Crashed) as error:
        return str(error)
    return answer if isinstance(answer, str) else None
