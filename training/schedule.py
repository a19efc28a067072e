"""The learning rate as a function of the step."""

from __future__ import annotations


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """For the 1-based step: up in a line to the peak at warmup_steps, then down towards 0.

    No step runs at 0: the last one still gets 1 / (total_steps - warmup_steps) of the peak.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    return peak * (total_steps - step + 1) / (total_steps - warmup_steps)
