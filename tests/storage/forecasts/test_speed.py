"""What jobs are said to take, by jobs that a known machine ran."""

from __future__ import annotations

import math
import random

import pytest

from storage.forecasts.speed import (
    BLIND_SPREAD,
    DEFAULT_SPREAD,
    MIN_RATIOS,
    JobWork,
    RunThrough,
    Speed,
    fit,
    guessed,
    ratios,
    spread,
)

PARAMETERS = 134_000_000
TRUE = Speed((4.0, 0.03, 0.02))
BEFORE = guessed(2, has_gpu=False)


def jobs(number: int, *, noise: float, seed: int = 0) -> list[RunThrough]:
    draw = random.Random(seed)
    found = []
    for _ in range(number):
        tokens, steps = draw.choice([500, 3000, 10_000]), draw.choice([10, 30, 100])
        work = JobWork(tokens, steps, PARAMETERS)
        found.append(RunThrough(work, TRUE.seconds(work) * draw.lognormvariate(0, noise)))
    return found


def test_without_a_job_it_is_what_was_known_and_one_job_is_met() -> None:
    assert fit([], BEFORE) == BEFORE
    (job,) = jobs(1, noise=0)
    assert fit([job], BEFORE).seconds(job.work) == pytest.approx(job.seconds, rel=1e-3)


def test_costs_are_found_and_none_is_below_zero() -> None:
    found = fit(jobs(60, noise=0.02), BEFORE)
    for job in jobs(20, noise=0, seed=1):
        assert found.seconds(job.work) == pytest.approx(job.seconds, rel=0.15)
    # A machine without a start's costs, seen through noise.
    slow = [RunThrough(j.work, 0.02 * j.work.parts[2]) for j in jobs(30, noise=0)]
    assert min(fit(slow, BEFORE).costs) >= 0


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_what_was_known_may_be_far_off(factor: float) -> None:
    wrong = Speed((TRUE.costs[0] * factor, TRUE.costs[1] * factor, TRUE.costs[2] * factor))
    for job in jobs(8, noise=0):
        assert fit(jobs(8, noise=0), wrong).seconds(job.work) == pytest.approx(
            job.seconds, rel=0.02
        )


def test_a_machine_that_has_become_slow_is_slow() -> None:
    quick = jobs(30, noise=0)
    slow = [RunThrough(job.work, 3 * job.seconds) for job in jobs(15, noise=0, seed=1)]
    (next_one,) = jobs(1, noise=0, seed=2)
    told = fit([*quick, *slow], BEFORE).seconds(next_one.work)
    assert told > 1.4 * next_one.seconds


def test_intervals_are_wide_until_errors_say_how_wide() -> None:
    default = spread([1.0] * (MIN_RATIOS - 1), DEFAULT_SPREAD)
    assert default["p05"] == pytest.approx(0.6)
    assert default["p95"] == pytest.approx(2.5)
    assert default["p50"] == 1
    assert 0.6 < default["p10"] < 1 < default["p90"] < 2.5
    assert spread([], BLIND_SPREAD)["p95"] == pytest.approx(5)
    measured = spread([2.0] * MIN_RATIOS, DEFAULT_SPREAD)
    assert list(measured.values()) == pytest.approx([2.0] * 5)


def test_intervals_hold_what_they_say_on_a_machine_with_noise() -> None:
    num_inside = num = 0
    for seed in range(6):
        run = jobs(60, noise=0.25, seed=seed)
        for number in range(30, 60, 2):
            before, job = run[:number], run[number]
            factors = spread(ratios(before, BEFORE), DEFAULT_SPREAD)
            told = fit(before, BEFORE).seconds(job.work)
            num += 1
            num_inside += factors["p10"] * told <= job.seconds <= factors["p90"] * told
    # 80 % of 90: three deviations are 13 points.
    assert 0.67 < num_inside / num < 0.93


def test_a_gpu_is_guessed_to_be_quicker() -> None:
    work = JobWork(1e6, 100, 8_000_000_000)
    assert guessed(2, has_gpu=True).seconds(work) < guessed(64, has_gpu=False).seconds(work)
    assert math.isfinite(guessed(0, has_gpu=False).seconds(work))
