from __future__ import annotations

import math

import pytest

from examples.outcome import Bound, Outcome, exit_status


def outcome(
    after: float, bound: Bound, before: float = 3.326, problem: str | None = None
) -> Outcome:
    return Outcome("prefix", "loss", bound, 41.4, before, after, problem)


def test_the_line_says_what_was_measured_and_that_it_is_as_expected() -> None:
    assert outcome(1.204, Bound(at_most=1.6)).line == (
        "prefix           41 s  loss: 3.33 before, 1.20 after; expected at most 1.60: ok"
    )


def test_the_line_of_a_figure_out_of_bounds_says_so() -> None:
    assert outcome(0.4, Bound(at_least=0.5), before=0.0).line == (
        "prefix           41 s  loss: 0.00 before, 0.40 after; expected at least 0.50: not ok"
    )


def test_the_line_of_what_did_not_end_says_why_on_one_line() -> None:
    failed = outcome(math.nan, Bound(at_most=1), problem="job ftjob-1 failed:\n no room")
    assert failed.line == "prefix           41 s  loss: not ok, job ftjob-1 failed: no room"
    assert not failed.is_ok


@pytest.mark.parametrize(
    ("bound", "within", "without"),
    [
        (Bound(at_least=0.5), (0.5, 1.0), (0.49, -1.0)),
        (Bound(at_most=0.5), (0.5, -1.0), (0.51, 3.0)),
        (Bound(at_least=0.2, at_most=0.5), (0.2, 0.5), (0.1, 0.6)),
    ],
)
def test_a_bound_holds_up_to_its_ends(
    bound: Bound, within: tuple[float, ...], without: tuple[float, ...]
) -> None:
    assert all(bound.holds(value) for value in within)
    assert not any(bound.holds(value) for value in (*without, math.nan))


def test_a_bound_of_both_sides_is_told_with_both() -> None:
    assert str(Bound(at_least=0.2, at_most=0.5)) == "at least 0.20, at most 0.50"


def test_one_that_is_not_ok_makes_the_status_1() -> None:
    good, bad = outcome(1, Bound(at_most=2)), outcome(3, Bound(at_most=2))
    failed = outcome(1, Bound(at_most=2), problem="no room")
    assert exit_status([good, good]) == 0
    assert exit_status([good, bad]) == 1
    assert exit_status([good, failed]) == 1
    assert exit_status([]) == 1
