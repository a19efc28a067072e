from __future__ import annotations

from examples.demo import gain
from examples.evaluate import Scores


def test_gain_between_two_shares_is_in_points() -> None:
    tuned, best = Scores(1.0, 0.6, {}, 42.0), Scores(1.0, 0.2, {}, 665.0)
    assert gain(tuned, best) == (
        "Exact matches: +40 percentage points against the base's best prompt, "
        "with 623 prompt tokens fewer per request."
    )
