"""The rates of classes against what they mean, counted the long way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.programs import class_metrics

TRUTHS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)
# Few values, so that many are equal.
SCORED = st.lists(st.tuples(st.booleans(), st.integers(-2, 2)), min_size=1, max_size=12)


def divided(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@given(TRUTHS, st.sampled_from([0.5, 1.0, 2.0]))
def test_rates_of_each_class_are_counted_right(pairs: list[tuple[int, int]], beta: float) -> None:
    truths, guesses = (np.array(each) for each in zip(*pairs, strict=True))
    table = class_metrics.confusion(truths, guesses, 4)
    weighted = 0.0
    for c in range(4):
        hits = sum(t == g == c for t, g in pairs)
        precision = divided(hits, sum(g == c for _, g in pairs))
        recall = divided(hits, sum(t == c for t, _ in pairs))
        f = divided((1 + beta**2) * precision * recall, beta**2 * precision + recall)
        assert class_metrics.precision(table)[c] == pytest.approx(precision)
        assert class_metrics.recall(table)[c] == pytest.approx(recall)
        assert class_metrics.f_beta(table, beta)[c] == pytest.approx(f)
        f1 = divided(2 * precision * recall, precision + recall)
        weighted += f1 * sum(t == c for t, _ in pairs) / len(pairs)
        for d in range(4):
            assert table[c, d] == sum((t, g) == (c, d) for t, g in pairs)
    assert class_metrics.weighted_f1(table) == pytest.approx(weighted)
    right = sum(t == g for t, g in pairs) / len(pairs)
    assert class_metrics.accuracy(table) == pytest.approx(right)


@given(SCORED)
def test_areas_are_those_of_all_pairs_and_of_all_thresholds(
    scored: list[tuple[bool, int]],
) -> None:
    is_positive = np.array([positive for positive, _ in scored])
    scores = np.array([score for _, score in scored], np.float64)
    found = class_metrics.auroc(is_positive, scores)
    area = class_metrics.average_precision(is_positive, scores)
    above = [s for positive, s in scored if positive]
    below = [s for positive, s in scored if not positive]
    if not above or not below:
        assert math.isnan(found)
        assert math.isnan(area)
        return
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(above, below)]
    assert found == pytest.approx(sum(wins) / len(wins))
    expected, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = [positive for positive, s in scored if s >= threshold]
        recall = sum(taken) / len(above)
        expected += (recall - recall_before) * sum(taken) / len(taken)
        recall_before = recall
    assert area == pytest.approx(expected)


def test_the_example_of_scikit_learn_s_documentation() -> None:
    # Of roc_auc_score and average_precision_score.
    is_positive, scores = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    assert class_metrics.auroc(is_positive, scores) == pytest.approx(0.75)
    assert class_metrics.average_precision(is_positive, scores) == pytest.approx(
        0.8333333, abs=1e-6
    )
    # Of precision_recall_fscore_support and f1_score, for 0, 1 and 2.
    truths, guesses = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])
    table = class_metrics.confusion(truths, guesses, 3)
    assert class_metrics.precision(table) == pytest.approx([2 / 3, 0, 0])
    assert class_metrics.recall(table) == pytest.approx([1, 0, 0])
    assert class_metrics.f_beta(table) == pytest.approx([0.8, 0, 0])
    assert class_metrics.weighted_f1(table) == pytest.approx(0.8 / 3)
