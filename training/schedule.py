"""The learning rate as a function of the step, in the shapes that transformers has for it, by its names.

Behind the warm-up the rates are transformers'. In it a step is one further: steps count from 1, and the first
one learns already, where transformers' runs at 0. No step at the end runs at 0 either.
"""

from __future__ import annotations

import math

from .messages import LrSchedule

_INVERSE_SQRT_STEPS = 10_000
"""How slowly the rate falls where there was no warm-up: as in transformers."""


def learning_rate(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    schedule: LrSchedule = "linear",
) -> float:
    """For the 1-based step: up in a line to the peak at warmup_steps, then in the schedule's shape."""
    if schedule == "constant":
        return peak
    if step <= warmup_steps:
        return peak * step / warmup_steps
    done, behind_warmup = step - 1 - warmup_steps, total_steps - warmup_steps
    match schedule:
        case "linear":
            return peak * (behind_warmup - done) / behind_warmup
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * done / behind_warmup))
        case "inverse_sqrt":
            scale = warmup_steps or _INVERSE_SQRT_STEPS
            return peak * math.sqrt(scale / (done + scale))
        case "constant_with_warmup":
            return peak
