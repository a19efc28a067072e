from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grading import text_similarity
from grading.graders import Metric
from grading.text_similarity import MAX_TEXT_CHARS, ComparedTextTooLong

METRICS: tuple[Metric, ...] = get_args(Metric)
FOX = "The quick brown fox jumps over the lazy dog"
DOG = "The quick brown dog jumps on the log."


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # rouge-score 0.1.2 without its stemmer.
        *(
            ("rouge_1", 0.7058823529411765),
            ("rouge_2", 0.26666666666666666),
            ("rouge_3", 0.15384615384615383),
            ("rouge_4", 0.0),
        ),
        *(("rouge_5", 0.0), ("rouge_l", 0.5882352941176471)),
        # rapidfuzz 3.14.
        ("fuzzy_match", 0.825),
    ],
)
def test_a_metric_gives_what_its_library_gives(metric: Metric, expected: float) -> None:
    assert text_similarity.reward(metric, DOG, FOX) == pytest.approx(expected)


def test_bleu_and_gleu_are_those_of_nltk() -> None:
    # Precisions of "a b c d x" against "a b c d e": 4/5, 3/4, 2/3, 1/2.
    assert text_similarity.reward("bleu", "a b c d x", "a b c d e") == pytest.approx(0.2**0.25)
    assert text_similarity.reward("gleu", "a b c d x", "a b c d e") == pytest.approx(10 / 14)


def test_meteor_matches_stems_and_asks_no_wordnet() -> None:
    related = text_similarity.reward("meteor", "he jumped over dogs", "he jumps over dogs")
    unrelated = text_similarity.reward("meteor", "he walked over dogs", "he jumps over dogs")
    assert 0.9 < related < 1.0
    assert unrelated < 0.8


def test_cosine_compares_words_not_their_order() -> None:
    assert text_similarity.reward("cosine", "a b b", "B a b") == pytest.approx(1.0)
    assert text_similarity.reward("cosine", "a", "a b") == pytest.approx(0.5**0.5)
    assert text_similarity.reward("cosine", "a", "b") == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_the_ends_of_the_scale(metric: Metric) -> None:
    # METEOR knows no perfect match: it always counts one chunk.
    assert text_similarity.reward(metric, FOX, FOX) == pytest.approx(1.0, abs=0.01)
    assert text_similarity.reward(metric, "", FOX) == 0.0
    assert text_similarity.reward(metric, " ", "") == 1.0
    if metric != "fuzzy_match":
        assert text_similarity.reward(metric, "Jetzt wird's was", FOX) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_a_text_beyond_the_limit_is_refused(metric: Metric) -> None:
    with pytest.raises(ComparedTextTooLong):
        text_similarity.reward(metric, "x" * (MAX_TEXT_CHARS + 1), "x")


@settings(max_examples=40)
@given(st.sampled_from(METRICS), st.text(max_size=40), st.text(max_size=40))
def test_any_two_texts_have_a_similarity(metric: Metric, text: str, reference: str) -> None:
    assert 0.0 <= text_similarity.reward(metric, text, reference) <= 1.0
