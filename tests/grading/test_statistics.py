from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from grading import statistics
from grading.statistics import agresti_min, bootstrap, compare, holm, mcnemar, wilson

PAIRS = st.integers(0, 200).flatmap(
    lambda b: st.tuples(st.just(b), st.integers(0, 200), st.integers(1, 400))
)


@pytest.mark.parametrize(
    ("num_right", "n", "low", "high"),
    [
        *((19, 24, 60, 91), (58, 72, 70, 88), (160, 200, 74, 85)),
        *((0, 24, 0, 14), (0, 72, 0, 5), (0, 200, 0, 2)),
    ],
)
def test_shares_of_few_rows_are_as_wide_as_they_are(
    num_right: int, n: int, low: int, high: int
) -> None:
    found = wilson(num_right, n)

    assert (round(100 * found.low), round(100 * found.high)) == (low, high)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_has_wilsons_interval(case: tuple[int, int]) -> None:
    num_right, n = case
    wanted = stats.binomtest(num_right, n).proportion_ci(0.95, "wilson")

    found = wilson(num_right, n)

    assert found.value == num_right / n
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_pairs_are_tested_as_tosses_of_a_fair_coin(b: int, c: int) -> None:
    wanted = stats.binomtest(min(b, c), b + c).pvalue if b + c else 1.0

    assert mcnemar(b, c) == pytest.approx(wanted, rel=1e-9, abs=1e-300)


def test_the_difference_of_pairs_has_the_interval_of_agresti_and_min() -> None:
    # Their example (Statistics in Medicine 24, 2005, table I's first data: 794, 150, 86, 570).
    found = agresti_min(150, 86, 1600)

    assert found.value == 0.04
    assert (found.low, found.high) == pytest.approx((0.0213, 0.0587), abs=5e-4)


@given(PAIRS)
def test_the_difference_of_pairs_lies_in_its_interval(case: tuple[int, int, int]) -> None:
    b, c, rest = case
    found = agresti_min(b, c, b + c + rest)

    assert -1 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("n", [0, 3])
def test_what_is_no_share_and_no_pairs_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(4, n)
    with pytest.raises(ValueError, match="no pairs"):
        agresti_min(2, 2, n)


@pytest.mark.parametrize(
    ("broken_share", "points", "for_five", "for_two"),
    [
        (0.02, [33, 19, 14, 11, 6, 3], 281, 1175),
        (0.05, [38, 23, 17, 13, 9, 5], 469, 2353),
        (0.10, [43, 27, 21, 17, 11, 6], 783, 4315),
    ],
)
def test_how_small_a_gain_so_many_rows_see(
    broken_share: float, points: list[int], for_five: int, for_two: int
) -> None:
    found = [
        100 * statistics.smallest_difference(n, broken_share) for n in (24, 48, 72, 100, 200, 500)
    ]

    assert found == pytest.approx(points, abs=0.75)
    assert statistics.rows_for(0.05, broken_share) == for_five
    assert statistics.rows_for(0.02, broken_share) == for_two


def test_one_row_sees_nothing() -> None:
    assert statistics.smallest_difference(1) == pytest.approx(1.0)


@settings(max_examples=20)
@given(st.floats(0.01, 0.9), st.floats(0.1, 2))
def test_rows_and_the_mean_difference_they_see_agree(difference: float, deviation: float) -> None:
    n = statistics.rows_for_mean(difference, deviation)

    assert statistics.smallest_mean_difference(n, deviation) <= difference * (1 + 1e-9) or n == 2


def test_a_bootstrap_has_scipys_interval() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=80) - 1.5
    wanted = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval

    found = bootstrap(values.tolist(), seed=3)

    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.02)


def test_copies_of_a_row_make_a_bootstrap_no_surer() -> None:
    values = np.random.default_rng(4).normal(size=30).tolist()
    alone = bootstrap(values)
    copied = bootstrap(values * 4, clusters=list(range(30)) * 4)
    mistaken = bootstrap(values * 4)

    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert mistaken.high - mistaken.low < 0.6 * (alone.high - alone.low)


def test_what_is_drawn_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.1, 0.9, -0.3, 0.4, 0.2]
    once, other = bootstrap(values, seed=7), bootstrap(values, seed=8)
    monkeypatch.setattr(statistics, "_DRAWN_AT_ONCE", 35)

    assert bootstrap(values, seed=7) == once != other


def test_tosses_of_signs_are_scipys_permutations() -> None:
    differences = np.random.default_rng(5).normal(0.35, 1.0, size=40)
    wanted = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=10_000,
        rng=np.random.default_rng(6),
    ).pvalue

    assert statistics.sign_flips(differences.tolist(), seed=1) == pytest.approx(wanted, abs=0.02)
    assert statistics.sign_flips([0.0, 0.0]) == 1.0


def test_few_differences_of_one_sign_are_as_probable_as_tosses() -> None:
    assert statistics.sign_flips([1.0] * 5, seed=2) == pytest.approx(2 * 0.5**5, abs=0.01)


def test_right_and_wrong_are_compared_exactly() -> None:
    found = compare([1, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 0])

    assert (found.num_only_first, found.num_only_second, found.n) == (2, 1, 6)
    assert found.interval == agresti_min(2, 1, 6)
    assert found.p == mcnemar(2, 1)


def test_grades_and_rows_that_belong_together_are_compared_by_draws() -> None:
    graded = compare([0.5, 1.0, 0.25], [0.5, 0.0, 0.5])
    together = compare([1, 1, 1, 0], [0, 0, 1, 0], ["a", "a", "b", "c"])

    assert graded.num_only_first is None
    assert graded.interval.value == pytest.approx(0.25)
    assert together.num_only_first == 2
    assert together.method == graded.method == "bootstrap, sign flips"
    # All tosses of the one cluster that differs are as extreme.
    assert together.p == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_a_family_is_adjusted_as_holm_did(p_values: list[float]) -> None:
    # By its definition: the largest of (m - j) p_(j) up to a place.
    ordered = sorted(p_values)
    steps = [min(1.0, (len(ordered) - j) * p) for j, p in enumerate(ordered)]
    wanted = {p: max(steps[: ordered.index(p) + 1]) for p in p_values}

    found = holm(p_values)

    distinct = len(set(p_values)) == len(p_values)
    assert all(a >= p or math.isclose(a, p) for a, p in zip(found, p_values, strict=True))
    if distinct:
        assert found == pytest.approx([wanted[p] for p in p_values])
