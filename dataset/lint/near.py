"""Rows that are nearly the same: found by MinHash sketches, then compared as they are.

Two texts are near if the sets of their pieces of five characters have a Jaccard similarity of `THRESHOLD`. A sketch of a
prompt and one of an answer together make that of both. What is near by its sketch, in one band of numbers of it, is read
again and compared exactly; so what is told is true, and some two in a hundred pairs right at the threshold are missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from .columns import RowColumns

THRESHOLD = 0.85
SHINGLE = 5
NUM_BANDS, ROWS_A_BAND = 8, 6
_NUM_HASHES = NUM_BANDS * ROWS_A_BAND
_MAX_TEXT_CHARS = 4000
"""Of a text; what is behind it does not make it less near."""
MAX_COMPARED = 20_000
"""Pairs that are read again; more are not looked at, and that is told."""
MIN_CHARS = 20

Pairs = Iterator[tuple[int, int]]
Hashes = npt.NDArray[np.uint64]


class Sketches:
    """Writes two for each row: of its prompt, and of its prompt and answer."""

    def __init__(self, prompts: RowColumns, rows: RowColumns) -> None:
        self._prompts, self._rows = prompts, rows

    def add(self, prompts: Sequence[str], answers: Sequence[str]) -> None:
        of_prompts, of_answers = _sketches(prompts), _sketches(answers)
        self._prompts.write("sketch", _bands(of_prompts))
        self._rows.write("sketch", _bands(np.minimum(of_prompts, of_answers)))


def _sketches(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """(len(texts), _NUM_HASHES)."""
    encoded = [text[:_MAX_TEXT_CHARS].encode("utf-8", "surrogatepass") for text in texts]
    hashes, offsets = _shingle_hashes(encoded)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, _NUM_HASHES, 1)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(texts), _NUM_HASHES)


def _shingle_hashes(texts: Sequence[bytes]) -> tuple[Hashes, Hashes]:
    """Of every five bytes, and where each text's begin."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - SHINGLE + 1, 0))])
    data = np.frombuffer(b"".join(texts), np.uint8)
    num = max(len(data) - SHINGLE + 1, 0)
    packed = np.zeros(num, np.uint64)
    for place in range(SHINGLE):
        packed |= data[place : place + num].astype(np.uint64) << np.uint64(8 * place)
    packed *= np.uint64(0x9E3779B97F4A7C15)
    packed ^= packed >> np.uint64(29)
    is_whole = np.ones(num, bool)
    ends = np.cumsum(lengths)
    for place in range(1, SHINGLE):
        across = ends - place
        is_whole[across[(across >= 0) & (across < num)]] = False
    if len(texts) and lengths.min() < SHINGLE:
        is_whole = _whole_of_short(lengths, num)
    return packed[is_whole], offsets.astype(np.uint64)


def _whole_of_short(lengths: npt.NDArray[np.int64], num: int) -> npt.NDArray[np.bool_]:
    """Which shingles are within one text, where a shingle may reach across a whole text."""
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return np.equal(owners[:num], owners[SHINGLE - 1 : SHINGLE - 1 + num])


def _bands(sketches: npt.NDArray[np.uint32]) -> Hashes:
    """(N, NUM_BANDS): a number for each band, equal where its hashes are."""
    wide = sketches.astype(np.uint64).reshape(-1, NUM_BANDS, ROWS_A_BAND)
    numbers = np.zeros(wide.shape[:2], np.uint64)
    for place in range(ROWS_A_BAND):
        numbers = (numbers ^ wide[:, :, place]) * np.uint64(0x100000001B3)
        numbers ^= numbers >> np.uint64(31)
    return numbers & np.uint64(0xFFFFFFFF)


def candidates(columns: RowColumns, others: RowColumns | None = None) -> Pairs:
    """Pairs of rows whose sketches share a band: a later one and an earlier one, or with `others` one of each file.

    Of many that share one band the first and the one before are taken.
    """
    for band in range(NUM_BANDS):
        ours = columns.band(band, NUM_BANDS)
        if others is None:
            order = np.argsort(ours, kind="stable")
            same = np.flatnonzero(ours[order[1:]] == ours[order[:-1]]) + 1
            first = _firsts(ours[order])
            for place in same.tolist():
                yield int(order[place]), int(order[first[place]])
                if first[place] != place - 1:
                    yield int(order[place]), int(order[place - 1])
        else:
            theirs = others.band(band, NUM_BANDS)
            order = np.argsort(theirs, kind="stable")
            places = np.searchsorted(theirs[order], ours)
            inside = places < len(theirs)
            inside[inside] &= theirs[order[places[inside]]] == ours[inside]
            for index in np.flatnonzero(inside).tolist():
                yield index, int(order[places[index]])


def _firsts(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """For each of sorted values, where its equals begin."""
    starts = np.concatenate([[True], values[1:] != values[:-1]])
    return np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of the pieces of five characters."""
    ours, theirs = _shingles(one), _shingles(other)
    both = len(ours & theirs)
    return both / (len(ours) + len(theirs) - both) if ours or theirs else 0.0


def _shingles(text: str) -> set[str]:
    text = text[:_MAX_TEXT_CHARS]
    return {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}


def compared(
    pairs: Pairs, is_near: Callable[[int, int], bool], skip: Callable[[int, int], bool]
) -> tuple[dict[int, int], bool]:
    """For each row the earliest that it is near to, and whether all pairs were looked at."""
    found: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    for later, earlier in pairs:
        if (
            found.get(later, later + 1) <= earlier
            or (later, earlier) in seen
            or skip(later, earlier)
        ):
            continue
        if len(seen) >= MAX_COMPARED:
            return found, False
        seen.add((later, earlier))
        if is_near(later, earlier):
            found[later] = earlier
    return found, True
