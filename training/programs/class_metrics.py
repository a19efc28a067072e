"""How well classes are told apart: plain numpy, no torch. Where a rate has nothing to divide by it is 0, as in scikit-learn.

Dimensions: N examples, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def confusion(truths: Ints, guesses: Ints, num_classes: int) -> Ints:
    """(K, K): how many examples of the class of the row were taken for that of the column."""
    counts = np.bincount(truths * num_classes + guesses, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def accuracy(table: Ints) -> float:
    return float(_ratio(np.trace(table), table.sum()))


def precision(table: Ints) -> Floats:
    """(K,) of all that was taken for a class, how much was of it."""
    return _ratio(np.diagonal(table), table.sum(axis=0))


def recall(table: Ints) -> Floats:
    """(K,) of all that is of a class, how much was found."""
    return _ratio(np.diagonal(table), table.sum(axis=1))


def f_beta(table: Ints, beta: float = 1.0) -> Floats:
    """(K,) (1 + b²)PR / (b²P + R): recall counts b times as much as precision."""
    p, r, square = precision(table), recall(table), beta**2
    return _ratio((1 + square) * p * r, square * p + r)


def weighted_f1(table: Ints) -> float:
    """The classes' F1, each as much as it has examples."""
    support = table.sum(axis=1)
    return float(_ratio((f_beta(table) * support).sum(), support.sum()))


def auroc(is_positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """How often a positive example scores above a negative one, a tie being half. NaN where one class is absent."""
    num_positive = int(is_positive.sum())
    num_negative = len(is_positive) - num_positive
    if not num_positive or not num_negative:
        return math.nan
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_ranks = np.cumsum(counts)
    ranks = (last_ranks - (counts - 1) / 2)[places]  # Equal scores share the mean of their ranks.
    above = ranks[is_positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def average_precision(is_positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The area under precision over recall: Σ (R_i - R_{i-1}) P_i over the distinct thresholds, from the highest.

    Steps, not the trapezoids of what lies between, which no threshold reaches. NaN where one class is absent.
    """
    num_positive = int(is_positive.sum())
    if not num_positive or num_positive == len(is_positive):
        return math.nan
    thresholds, places = np.unique(-scores, return_inverse=True)
    found = np.bincount(places, weights=is_positive, minlength=len(thresholds))
    taken = np.bincount(places, minlength=len(thresholds))
    return float((found * np.cumsum(found) / np.cumsum(taken)).sum() / num_positive)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    quotient: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
    return quotient
