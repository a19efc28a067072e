from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from transformers import get_scheduler

from training.messages import LrSchedule
from training.schedule import learning_rate


def test_rate_rises_to_its_peak_and_falls_towards_zero() -> None:
    rates = [learning_rate(step, peak=8, warmup_steps=4, total_steps=12) for step in range(1, 13)]
    assert rates == [2, 4, 6, 8, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("warmup_steps", [0, 3, 5])
def test_no_step_is_wasted_at_rate_zero(warmup_steps: int) -> None:
    rates = [
        learning_rate(step, peak=1, warmup_steps=warmup_steps, total_steps=3) for step in (1, 2, 3)
    ]
    assert min(rates) > 0


@pytest.mark.parametrize(
    ("name", "warmup_steps", "total_steps"),
    list(itertools.product(get_args(LrSchedule), (0, 3, 12), (12, 40))),
)
def test_rates_behind_the_warm_up_are_those_of_transformers(
    name: LrSchedule, warmup_steps: int, total_steps: int
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8e-4)
    scheduler = get_scheduler(name, optimizer, warmup_steps, total_steps)
    theirs = []
    for _ in range(total_steps + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    if name == "constant":
        warmup_steps = 0
    ours = [
        learning_rate(
            step, peak=8e-4, warmup_steps=warmup_steps, total_steps=total_steps, schedule=name
        )
        for step in range(1, total_steps + 1)
    ]
    # In the warm-up transformers is a step behind, for its first step runs at 0.
    rising = theirs[1:warmup_steps] + [8e-4] * min(warmup_steps, 1)
    assert ours[:warmup_steps] == pytest.approx(rising)
    assert ours[warmup_steps:] == pytest.approx(theirs[warmup_steps:total_steps])
    assert min(ours) > 0
