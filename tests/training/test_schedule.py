from __future__ import annotations

import pytest

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
