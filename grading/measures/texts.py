"""Answers that are texts: labels, numbers, excerpts, code, rewritten and free ones."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from dataset.task_type import without_fence
from grading import text_similarity

from .measure import Json, Measure, ModelAnswer, RowScore

MAX_COMPARED_CHARS = 8_192
"""Of either text, where time grows with the product of the lengths; what is behind it is not looked at."""
MAX_CONFUSIONS = 50
_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d,_ ]*\d|\d)?(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*%?\s*\.?\s*")
_WORD = re.compile(r"\w+")
_CHRF_ORDER, _CHRF_BETA = 6, 2.0


class ClassMeasure(Measure):
    primary = "accuracy"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        right = float(label(answer.text) == label(wanted.text))
        return RowScore(right, {}, {label(wanted.text): right})

    def together(self, pairs: Sequence[tuple[ModelAnswer, ModelAnswer]]) -> Json:
        labels = [(label(answer.text), label(wanted.text)) for answer, wanted in pairs]
        wrong = Counter((wanted, found[:100]) for found, wanted in labels if found != wanted)
        return {
            "macro-F1": macro_f1(labels),
            "confusions": [
                {"wanted": wanted, "answered": found, "rows": count}
                for (wanted, found), count in wrong.most_common(MAX_CONFUSIONS)
            ],
        }


class NumberMeasure(Measure):
    primary = "the same number"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        found, target = number(answer.text), number(wanted.text)
        if found is None or target is None:
            return RowScore(0.0, {"a number": float(found is not None)})
        return RowScore(float(math.isclose(found, target, rel_tol=1e-9)), {"a number": 1.0})

    def together(self, pairs: Sequence[tuple[ModelAnswer, ModelAnswer]]) -> Json:
        read = [(number(answer.text), number(wanted.text)) for answer, wanted in pairs]
        errors = [(abs(a - b), abs(b)) for a, b in read if a is not None and b is not None]
        if not errors:
            return {}
        relative = [error / size for error, size in errors if size]
        mean = sum(error for error, _ in errors) / len(errors)
        found: Json = {"mean absolute error": mean}
        if relative:
            found["median relative error"] = sorted(relative)[len(relative) // 2]
        return found


class ExtractMeasure(Measure):
    primary = "the same words"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        found, target = words(answer.text), words(wanted.text)
        return RowScore(float(found == target), {"token F1": token_f1(found, target)})


class CodeMeasure(Measure):
    primary = "similarity by edits"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        found, target = (without_fence(each.text).strip() for each in (answer, wanted))
        similarity = Levenshtein.normalized_similarity(
            found[:MAX_COMPARED_CHARS], target[:MAX_COMPARED_CHARS]
        )
        also = {"exactly the same": float(found == target)}
        if is_python(target):
            also["parses as Python"] = float(is_python(found))
        return RowScore(similarity, also)


class RewriteMeasure(Measure):
    primary = "chrF"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        found, target = (each.text[:MAX_COMPARED_CHARS] for each in (answer, wanted))
        return RowScore(chrf(found, target), {"exactly the same": float(found == target)})


class ChatMeasure(Measure):
    primary = "ROUGE-L"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        found, target = (each.text[:MAX_COMPARED_CHARS] for each in (answer, wanted))
        return RowScore(text_similarity.reward("rouge_l", found, target))


def label(text: str) -> str:
    """As it is compared: spaces around it say nothing."""
    return " ".join(text.split())


def number(text: str) -> float | None:
    """The number that the text is, digits in groups and a percent sign allowed."""
    found = _NUMBER.fullmatch(text)
    try:
        value = float(re.sub(r"[,_ ]", "", found[1])) if found else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def words(text: str) -> list[str]:
    """Without marks and capitals."""
    return _WORD.findall(text.casefold())


def token_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    return 2 * (Counter(found) & Counter(wanted)).total() / (len(found) + len(wanted))


def is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text[:MAX_COMPARED_CHARS])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(text.strip())


def macro_f1(labels: Sequence[tuple[str, str]]) -> float:
    """Of pairs of what was found and what was wanted: the mean over the classes that are wanted or found."""
    found, wanted = Counter(a for a, _ in labels), Counter(b for _, b in labels)
    right = Counter(a for a, b in labels if a == b)
    names = found.keys() | wanted.keys()
    return sum(2 * right[n] / (found[n] + wanted[n]) for n in names) / len(names) if names else 0.0


def chrf(text: str, wanted: str) -> float:
    """F of the shares of character n-grams, up to 6 of them, recall counting twice (Popović 2015); spaces say nothing."""
    found, target = "".join(text.split()), "".join(wanted.split())
    if not found or not target:
        return float(found == target)
    precisions, recalls = [], []
    for order in range(1, min(_CHRF_ORDER, len(found), len(target)) + 1):
        a, b = _ngrams(found, order), _ngrams(target, order)
        num_common = (a & b).total()
        precisions.append(num_common / a.total())
        recalls.append(num_common / b.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if not precision or not recall:
        return 0.0
    weight = _CHRF_BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall)


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))
