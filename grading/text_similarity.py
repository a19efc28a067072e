"""How alike two texts are, from 0.0 to 1.0.

| metric         | what it is                                                                                  |
|----------------|---------------------------------------------------------------------------------------------|
| `cosine`       | of the two bags of words. OpenAI compares embeddings; there is no embedding model here       |
| `fuzzy_match`  | rapidfuzz's `ratio`: characters to insert and delete, over the length of both                |
| `bleu`         | nltk's, up to 4-grams (fewer in shorter texts), smoothed after Chen and Cherry, method 3     |
| `gleu`         | nltk's, up to 4-grams                                                                       |
| `meteor`       | nltk's, matching words and stems. Without WordNet, whose data would have to be downloaded     |
| `rouge_1`-`5`  | F1 of the n-grams; lower case, words of letters and digits, no stemming, as in `rouge-score` |
| `rouge_l`      | F1 of the longest common subsequence, likewise                                              |
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from .graders import Metric

MAX_TEXT_CHARS = 32_768
"""Of either text; METEOR's time grows with the product of the lengths."""

_ALPHANUMERIC = re.compile(r"[^\W_]+")
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


class ComparedTextTooLong(Exception):
    """One of the texts is longer than MAX_TEXT_CHARS."""


def reward(metric: Metric, text: str, reference: str) -> float:
    """Raises ComparedTextTooLong. Takes up to seconds, so call it in a thread."""
    if max(len(text), len(reference)) > MAX_TEXT_CHARS:
        raise ComparedTextTooLong
    if not text.strip() or not reference.strip():
        return float(text.strip() == reference.strip())
    return min(max(_METRICS[metric](text, reference), 0.0), 1.0)


def _words(text: str) -> list[str]:
    return _ALPHANUMERIC.findall(text.lower())


def _cosine(text: str, reference: str) -> float:
    a, b = Counter(_words(text)), Counter(_words(reference))
    norm = math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))
    return sum(n * b[word] for word, n in a.items()) / norm if norm else 0.0


def _fuzzy_match(text: str, reference: str) -> float:
    return fuzz.ratio(text, reference) / 100


# nltk takes most of a second to import, so only those who ask for it wait for it.


def _bleu(text: str, reference: str) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    candidate, target = _WORD_OR_MARK.findall(text), _WORD_OR_MARK.findall(reference)
    if not set(candidate) & set(target):
        return 0.0
    order = min(4, len(candidate), len(target))
    smoothing = SmoothingFunction().method3
    weights = (1 / order,) * order
    return float(sentence_bleu([target], candidate, weights, smoothing_function=smoothing))


def _gleu(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_WORD_OR_MARK.findall(reference)], _WORD_OR_MARK.findall(text)))


class _NoWordNet:
    """Stands in WordNet's place and knows no synonyms."""

    def synsets(self, _: str) -> list[object]:
        return []


def _meteor(text: str, reference: str) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    candidate, target = _WORD_OR_MARK.findall(text), _WORD_OR_MARK.findall(reference)
    return float(single_meteor_score(target, candidate, wordnet=_NoWordNet()))


def _rouge(order: int) -> Callable[[str, str], float]:
    def metric(text: str, reference: str) -> float:
        a, b = _ngrams(_words(text), order), _ngrams(_words(reference), order)
        return _f1((a & b).total(), a.total(), b.total())

    return metric


def _rouge_l(text: str, reference: str) -> float:
    a, b = _words(text), _words(reference)
    return _f1(LCSseq.similarity(a, b), len(a), len(b))


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _f1(num_common: int, num_found: int, num_wanted: int) -> float:
    return 2 * num_common / (num_found + num_wanted) if num_common else 0.0


_METRICS: dict[Metric, Callable[[str, str], float]] = {
    "cosine": _cosine,
    "fuzzy_match": _fuzzy_match,
    "bleu": _bleu,
    "gleu": _gleu,
    "meteor": _meteor,
    "rouge_1": _rouge(1),
    "rouge_2": _rouge(2),
    "rouge_3": _rouge(3),
    "rouge_4": _rouge(4),
    "rouge_5": _rouge(5),
    "rouge_l": _rouge_l,
}
