"""The ways in which an attempt at a job ends other than in success, and who is to blame."""

from __future__ import annotations

from collections.abc import Sequence


class JobFailed(Exception):
    """The job is over: trying again cannot help. Code, message and param are what its owner sees.

    `problems` are all that is wrong with the file that `param` names, in order. `bad_row` is the first of them
    that holds whatever the base, or empty.
    """

    def __init__(
        self,
        code: str,
        message: str,
        param: str | None = None,
        *,
        problems: Sequence[str] = (),
        bad_row: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.problems = list(problems)
        self.bad_row = bad_row


class Setback(Exception):
    """Something broke that is not the job's fault; another attempt may get through.

    `code` is what the job fails with if none does. `step` is how far training had come, if it had begun.
    """

    def __init__(self, message: str, *, code: str = "worker_lost", step: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.step = step


class UnusableState(Exception):
    """The trainer cannot resume from the saved state that it was given; an older one may do."""


class Paused(Exception):
    """The job's owner asked for a pause, and nothing that was done is lost by stopping here."""
