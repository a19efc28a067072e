"""A few hundred rows, drawn evenly, for what is too dear to be asked of every row: languages, words, the task."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dataset.languages import language_of
from dataset.task_type import LastTurn, TaskTypeCollector

from .findings import LintFindings

MAX_ROWS = 500
_MAX_CHARS = 1000
_MIN_KNOWN = 20
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class SampledRow:
    """What is said of one."""

    number: int
    prompt_language: str | None
    answer_language: str | None
    words: frozenset[str]


class RowSample:
    def __init__(self) -> None:
        self.task = TaskTypeCollector(MAX_ROWS)
        self._kept: list[tuple[int, str, str]] = []

    @cached_property
    def rows(self) -> list[SampledRow]:
        """To be asked for when all rows were seen."""
        return [
            SampledRow(
                number,
                _language(prompt),
                _language(answer),
                frozenset(_WORD.findall(f"{prompt} {answer}".lower())),
            )
            for number, prompt, answer in self._kept
        ]

    def put(self, place: int, number: int, prompt: str, answer: str, *, has_calls: bool) -> None:
        self.task.put(place, LastTurn(prompt, answer, has_calls))
        kept = (number, prompt[:_MAX_CHARS], answer[:_MAX_CHARS])
        if place == len(self._kept):
            self._kept.append(kept)
        else:
            self._kept[place] = kept

    def look_at_languages(self, findings: LintFindings, type_of_task: str) -> None:
        """A row's languages against those of most, and of its own prompt."""
        if type_of_task in ("code", "json", "tools"):
            return
        rows = sorted(self.rows, key=lambda row: row.number)
        known = Counter(row.answer_language for row in rows if row.answer_language)
        if known.total() >= _MIN_KNOWN:
            ((usual, most),) = known.most_common(1)
            if most / known.total() > 0.8:
                for row in rows:
                    if row.answer_language not in (None, usual):
                        findings.add(
                            "W406",
                            row.number,
                            self._words(f"answered in {row.answer_language}, most in {usual}"),
                        )
        pairs = Counter(
            (row.prompt_language, row.answer_language)
            for row in rows
            if row.prompt_language and row.answer_language
        )
        same = sum(count for (asked, answered), count in pairs.items() if asked == answered)
        # Where most differ, translating is what is taught.
        if pairs and same / pairs.total() > 0.8:
            for row in rows:
                if row.prompt_language and row.answer_language not in (None, row.prompt_language):
                    said = f"asked in {row.prompt_language}, answered in {row.answer_language}"
                    findings.add("W407", row.number, self._words(said))

    def _words(self, said: str) -> str:
        looked_at = len(self.rows)
        return (
            said if looked_at == self.task.num_rows else f"{said} (of {looked_at} rows looked at)"
        )


def _language(text: str) -> str | None:
    """Of what people write, which has spaces between words, or no ASCII."""
    return None if text[:1] in ("{", "[", "<") or "```" in text else language_of(text)


def separation(ours: Sequence[SampledRow], theirs: Sequence[SampledRow]) -> tuple[float, list[str]]:
    """How well words tell two files apart: the area under the curve of a naive Bayes on rows that it was not made of.

    And the words that tell the most. 0.5 is not at all.
    """
    sides = (ours[::2], theirs[::2])
    counts = [Counter(word for row in side for word in row.words) for side in sides]
    weights = {
        word: _log_odds(counts[0][word], len(sides[0]), counts[1][word], len(sides[1]))
        for word in counts[0].keys() | counts[1].keys()
    }
    scores = [
        [sum(weights.get(word, 0.0) for word in row.words) for row in side[1::2]]
        for side in (ours, theirs)
    ]
    telling = sorted(
        weights, key=lambda word: (-abs(weights[word]) * (counts[0][word] + counts[1][word]), word)
    )
    return auc(scores[0], scores[1]), telling[:5]


def _log_odds(count: int, of: int, other: int, of_others: int) -> float:
    return math.log((count + 0.5) / (of + 1)) - math.log((other + 0.5) / (of_others + 1))


def auc(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The chance that one of ours is larger than one of theirs; a tie counts half."""
    if not len(ours) or not len(theirs):
        return 0.5
    values = np.concatenate([np.asarray(ours, float), np.asarray(theirs, float)])
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = float(ranks[places[: len(ours)]].sum())
    return (total - len(ours) * (len(ours) + 1) / 2) / (len(ours) * len(theirs))
