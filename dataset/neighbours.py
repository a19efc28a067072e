"""Texts that are near another one by BM25: words that few texts have count much, long texts little.

Words of scripts without spaces are pairs of characters. Whoever imports this wants `bm25s` and numpy at hand.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence

import bm25s
import numpy as np

# It tells whoever listens what it is about to do.
logging.getLogger("bm25s").setLevel(logging.WARNING)

_WORD = re.compile(r"\w+")
_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
"""Thai, Lao, Burmese, Khmer, kana and Chinese characters."""


class Neighbours:
    """An index of texts, by their places."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._num_texts = len(texts)
        corpus = [list(words(text)) for text in texts]
        self._index: bm25s.BM25 | None = None
        if any(corpus):
            self._index = bm25s.BM25()
            # A text without a word would have no vector.
            self._index.index([each or [""] for each in corpus], show_progress=False)

    def nearest(
        self, text: str, count: int, *, passes: Callable[[int], bool] = lambda _: True
    ) -> list[int]:
        """Places of at most that many texts that pass, the nearest first; of equally near ones the first."""
        known = [] if self._index is None else self._known(text)
        if known and self._index is not None:
            scores = self._index.get_scores(known)
        else:
            scores = np.zeros(self._num_texts)
        order = np.argsort(-scores, kind="stable")
        found: list[int] = []
        for place in order:
            if len(found) == count:
                break
            if passes(int(place)):
                found.append(int(place))
        return found

    def _known(self, text: str) -> list[str]:
        assert self._index is not None
        return [word for word in words(text) if word in self._index.vocab_dict]


def words(text: str) -> Iterator[str]:
    for found in _WORD.finditer(text.casefold()):
        word, end = found[0], 0
        for run in _NO_SPACES.finditer(word):
            if run.start() > end:
                yield word[end : run.start()]
            yield from _pairs(run[0])
            end = run.end()
        if end < len(word):
            yield word[end:]


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for start in range(len(run) - 1):
        yield run[start : start + 2]
