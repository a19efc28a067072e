"""What an example is expected to come to, what it came to, and the line that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """Where a figure is expected to be after training; wide enough for any machine and precision."""

    at_least: float = -math.inf
    at_most: float = math.inf

    def holds(self, value: float) -> bool:
        """What is not a number is out of all bounds."""
        return self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        parts = []
        if self.at_least > -math.inf:
            parts.append(f"at least {self.at_least:.2f}")
        if self.at_most < math.inf:
            parts.append(f"at most {self.at_most:.2f}")
        return ", ".join(parts) or "anything"


@dataclass(frozen=True)
class Outcome:
    """An example that ran: the figure before and after training, or why there is none."""

    name: str
    figure: str
    """What was measured."""
    bound: Bound
    seconds: float
    before: float = math.nan
    after: float = math.nan
    problem: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.problem is None and self.bound.holds(self.after)

    @property
    def line(self) -> str:
        verdict = "ok" if self.is_ok else "not ok"
        start = f"{self.name:<14} {self.seconds:4.0f} s  {self.figure}: "
        if self.problem is not None:
            return f"{start}{verdict}, {' '.join(self.problem.split())}"
        change = f"{self.before:.2f} before, {self.after:.2f} after"
        return f"{start}{change}; expected {self.bound}: {verdict}"


def exit_status(outcomes: list[Outcome]) -> int:
    """1 if one is out of its bounds, or if there is none."""
    return 0 if outcomes and all(outcome.is_ok for outcome in outcomes) else 1
