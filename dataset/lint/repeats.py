"""Rows that repeat each other, or the validation file: found by hashes and sketches, told by reading the rows again."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson

from dataset.task_type import last_turn
from foundation import encodings

from . import near
from .columns import RowColumns
from .findings import MAX_SHOWN, LintFindings
from .forms import said_in
from .texts.rules import excerpt

Numbers = npt.NDArray[np.int64]
_TEXTS_KEPT = 64


class RowFile:
    """A file whose rows were seen, and what is kept of them."""

    def __init__(
        self,
        path: Path,
        columns: RowColumns,
        prompts: RowColumns,
        rows: RowColumns,
        stack: ExitStack,
    ) -> None:
        self._file = stack.enter_context(path.open("rb"))
        self.texts = lru_cache(_TEXTS_KEPT)(self._texts)
        self.columns = columns
        self.prompt_sketches, self.row_sketches = prompts, rows
        self.number = columns.read("number")
        self.prompt = columns.read("prompt")
        self.answer = columns.read("answer")
        self._offset = columns.read("offset")
        self._length = columns.read("length")

    @property
    def rows(self) -> Numbers:
        """A hash of each row as a whole."""
        with np.errstate(over="ignore"):
            return self.prompt * np.int64(-7046029254386353131) ^ self.answer

    def _texts(self, index: int) -> tuple[str, str]:
        """What is asked in a row, without a system message, and what is answered last."""
        line = os.pread(self._file.fileno(), int(self._length[index]), int(self._offset[index]))
        row = orjson.loads(line.removeprefix(encodings.UTF_8_MARK))
        turn = last_turn(row)
        if turn is None:
            return "", str(row.get("text", ""))
        said = said_in(row)
        asked = [
            text
            for role, text in zip(said.roles, said.texts, strict=True)
            if role not in ("system", "developer")
        ]
        calls = f"\n{said.call_text}" if said.call_text else ""
        return "\n".join(asked[:-1] if asked else asked), turn.answer.strip() + calls


def look_within(file: RowFile, findings: LintFindings, *, closed_answers: bool) -> None:
    """W201 to W204. `closed_answers`: whether there are few answers, so that another one is no matter of words."""
    firsts = _firsts(file.rows)
    again = np.flatnonzero(firsts != np.arange(len(firsts)))
    for index in again.tolist():
        if findings.count("W201", int(file.number[index])):
            first = int(file.number[firsts[index]])
            findings.tell("W201", int(file.number[index]), f"the same as line {first}")
    is_again = firsts != np.arange(len(firsts))
    _look_for_other_answers(file, findings, is_again)
    _look_for_near(file, findings, is_again, closed_answers=closed_answers)


def _look_for_other_answers(
    file: RowFile, findings: LintFindings, is_again: npt.NDArray[np.bool_]
) -> None:
    if not findings.wants("W203"):
        return
    has_prompt = file.columns.read("prompt_chars") > 0
    firsts = _firsts(file.prompt)
    differs = has_prompt & ~is_again & (file.answer != file.answer[firsts])
    for index in np.flatnonzero(differs).tolist():
        number = int(file.number[index])
        if findings.count("W203", number):
            first = int(firsts[index])
            answers = ", ".join(excerpt(file.texts(i)[1]) for i in (first, index))
            findings.tell(
                "W203",
                number,
                f"same prompt as line {file.number[first]}, other answer ({answers})",
            )


def _look_for_near(
    file: RowFile, findings: LintFindings, is_again: npt.NDArray[np.bool_], *, closed_answers: bool
) -> None:  # fmt: skip
    def whole(later: int, earlier: int) -> bool:
        ours, theirs = file.texts(later), file.texts(earlier)
        return _are_near("\n".join(ours), "\n".join(theirs))

    def prompts(later: int, earlier: int) -> bool:
        return _are_near(file.texts(later)[0], file.texts(earlier)[0])

    if findings.wants("W202"):
        found, is_all = near.compared(
            near.candidates(file.row_sketches),
            whole,
            # The same row again, or the same prompt, is told as such.
            lambda i, j: bool(is_again[i] or is_again[j] or file.prompt[i] == file.prompt[j]),
        )
        for index, first in sorted(found.items()):
            number = int(file.number[index])
            findings.add("W202", number, f"nearly the same as line {file.number[first]}")
        _tell_unseen("W202", findings, is_all=is_all)
    if findings.wants("W204") and closed_answers:
        found, is_all = near.compared(
            near.candidates(file.prompt_sketches),
            prompts,
            lambda i, j: bool(file.answer[i] == file.answer[j] or file.prompt[i] == file.prompt[j]),
        )
        for index, first in sorted(found.items()):
            number = int(file.number[index])
            if findings.count("W204", number):
                answers = ", ".join(excerpt(file.texts(i)[1]) for i in (first, index))
                said = f"nearly the prompt of line {file.number[first]}, other answer ({answers})"
                findings.tell("W204", number, said)
        _tell_unseen("W204", findings, is_all=is_all)


def look_across(training: RowFile, validation: RowFile, findings: LintFindings) -> None:
    """W205 and W206, on lines of the training file."""
    exact = _same(training.rows, validation.rows)
    for index, other in exact.items():
        findings.add(
            "W205",
            int(training.number[index]),
            f"line {validation.number[other]} of the validation file is the same",
        )
    has_prompt = training.columns.read("prompt_chars") > 0
    same_prompt = {
        i: j for i, j in _same(training.prompt, validation.prompt).items() if has_prompt[i]
    }

    def whole(ours: int, theirs: int) -> bool:
        return _are_near("\n".join(training.texts(ours)), "\n".join(validation.texts(theirs)))

    found, is_all = near.compared(
        near.candidates(training.row_sketches, validation.row_sketches),
        whole,
        lambda i, _: i in exact or i in same_prompt,
    )
    for index, other in sorted((found | same_prompt).items()):
        if index in exact:
            continue
        how = "has the same prompt" if index in same_prompt else "is nearly the same"
        number = int(training.number[index])
        findings.add(
            "W206", number, f"line {validation.number[other]} of the validation file {how}"
        )
    _tell_unseen("W206", findings, is_all=is_all)


def _same(ours: Numbers, theirs: Numbers) -> dict[int, int]:
    """For each of ours that is among theirs the first place there."""
    order = np.argsort(theirs, kind="stable")
    places = np.searchsorted(theirs[order], ours)
    inside = places < len(theirs)
    inside[inside] &= theirs[order[places[inside]]] == ours[inside]
    return {i: int(order[places[i]]) for i in np.flatnonzero(inside).tolist()}


def _firsts(values: Numbers) -> Numbers:
    """For each value the index of the first that equals it."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def _are_near(one: str, other: str) -> bool:
    shorter, longer = sorted((len(one), len(other)))
    # What is much longer has more pieces, unless it says the same again and again.
    is_close = shorter >= near.MIN_CHARS and shorter >= 0.75 * longer
    return is_close and near.similarity(one, other) >= near.THRESHOLD


def _tell_unseen(code: str, findings: LintFindings, *, is_all: bool) -> None:
    if not is_all and findings.counts[code] < MAX_SHOWN:
        findings.add_of_file(
            code, f"only {near.MAX_COMPARED} pairs were compared; there may be more"
        )
