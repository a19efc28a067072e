from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from dataset.neighbours import Neighbours, words

TEXTS = [
    "My parcel is late, where is it?",
    "The kettle is broken. The kettle leaks!",
    "Where is my refund for the toaster?",
    "Is the parcel insured?",
    "",
]


def bm25(texts: list[str], query: str) -> list[float]:
    """Lucene's, by its formula: k1 = 1.5, b = 0.75."""
    corpus = [Counter(words(text)) for text in texts]
    mean = sum(max(1, c.total()) for c in corpus) / len(corpus)
    scores = []
    for counts in corpus:
        score = 0.0
        for word in words(query):
            num_with = sum(word in c for c in corpus)
            idf = math.log(1 + (len(corpus) - num_with + 0.5) / (num_with + 0.5))
            length = 1 - 0.75 + 0.75 * max(1, counts.total()) / mean
            score += idf * counts[word] / (counts[word] + 1.5 * length)
        scores.append(score)
    return scores


@pytest.mark.parametrize(
    "query", ["the parcel, where?", "kettle", "a refund for my kettle", "IS IS it", "unheard of"]
)
def test_the_nearest_come_first_as_by_the_formula(query: str) -> None:
    wanted = np.argsort(-np.array(bm25(TEXTS, query)), kind="stable").tolist()

    assert Neighbours(TEXTS).nearest(query, 5) == wanted


def test_some_may_not_be_chosen() -> None:
    assert Neighbours(TEXTS).nearest("kettle", 2, passes=lambda place: place not in (0, 1)) == [
        2,
        3,
    ]


@pytest.mark.parametrize("texts", [[], [""], ["", "?!"]])
def test_texts_without_words_have_an_order_all_the_same(texts: list[str]) -> None:
    assert Neighbours(texts).nearest("anything", 5) == list(range(len(texts)))


def test_scripts_without_spaces_are_pairs_of_characters() -> None:
    assert list(words("Ticket 退款申请 über")) == ["ticket", "退款", "款申", "申请", "über"]
    assert Neighbours(["送货时间", "退款多久到"]).nearest("我想退款", 1) == [1]
