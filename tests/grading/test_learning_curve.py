"""How far losses fall, on curves that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from grading.learning_curve import LossPoint, loss_at

Curve = Callable[[float], float]
SHARES = (0.0125, 0.025, 0.05)


def law(draw: np.random.Generator, base: float, num_rows: float) -> Curve:
    end = draw.uniform(0.2, 0.6) * base
    scale, slope = num_rows * 10 ** draw.uniform(-2.5, -0.5), draw.uniform(0.5, 1.2)
    return lambda n: end + (base - end) / (1 + (n / scale) ** slope)


def power(draw: np.random.Generator, base: float, num_rows: float) -> Curve:
    """Of another form than is fitted."""
    end, slope = draw.uniform(0.2, 0.6) * base, draw.uniform(0.1, 0.5)
    return lambda n: end + (base - end) * (1 + n / 20) ** -slope


@pytest.mark.parametrize("form", [law, power])
def test_intervals_hold_at_least_what_they_say_and_the_middle_beats_the_last_pilot(
    form: Callable[[np.random.Generator, float, float], Curve],
) -> None:
    draw = np.random.default_rng(0)
    num_inside, errors, last_errors = 0, [], []
    for _ in range(40):
        base, num_rows = draw.uniform(2, 4), draw.choice([2_000, 8_000, 40_000])
        curve = form(draw, base, num_rows)
        points = [
            LossPoint(share * num_rows, curve(share * num_rows) * draw.lognormal(0, 0.03))
            for share in SHARES
        ]
        told, true = loss_at(num_rows, points, base), curve(num_rows)
        assert list(told.values()) == sorted(told.values())
        num_inside += told["p10"] <= true <= told["p90"]
        errors.append(abs(told["p50"] - true))
        last_errors.append(abs(points[-1].loss - true))
    assert num_inside >= 0.75 * 40
    assert np.median(errors) < 0.6 * np.median(last_errors)


def test_more_pilots_say_more() -> None:
    curve = law(np.random.default_rng(3), 3.0, 10_000)

    def width(shares: tuple[float, ...]) -> float:
        told = loss_at(10_000, [LossPoint(s * 10_000, curve(s * 10_000)) for s in shares], 3.0)
        return told["p95"] - told["p05"]

    assert width((0.06, 0.12, 0.25)) < 0.6 * width(SHARES)
    exact = loss_at(5_000, [LossPoint(5_000, 1.5)], 3.0, noise=0.01)
    assert exact["p50"] == pytest.approx(1.5, rel=0.02)


def test_a_loss_that_does_not_fall_is_not_said_to_fall_far() -> None:
    told = loss_at(4_000, [LossPoint(n, 3.0) for n in (500, 1_000, 2_000)], 3.0)
    assert told["p50"] > 2.7


@pytest.mark.parametrize(
    ("points", "base"), [([], 1.0), ([LossPoint(0, 1.0)], 1.0), ([LossPoint(1, 0.0)], 1.0)]
)
def test_what_is_no_curve_is_refused(points: list[LossPoint], base: float) -> None:
    with pytest.raises(ValueError, match="losses above zero"):
        loss_at(10, points, base)
