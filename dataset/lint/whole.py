"""What is said of a file as a whole: how many rows, classes, system prompts, forms of answers, lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dataset.task_type import DetectedTask

from .columns import RowColumns
from .findings import LintFindings
from .repeats import RowFile
from .rows import RowPass
from .samples import auc, separation
from .texts.rules import excerpt

MIN_ROWS = 10
_TOO_FEW = {
    "json": 50,
    "chat": 100,
    "rewrite": 100,
    "code": 100,
    "tools": 50,
    "number": 50,
    "extract": 50,
}
_MAX_SHARE = 0.8
_MIN_OF_CLASS = 5
_WANTED_OF_CLASS = 10
_MIN_REFUSALS = 0.01
_HALF_FROM, _HALF_TO = 0.8, 1.0
_MAX_CLASSES = 50
_MIN_SIDE = 20
_MAX_AUC = 0.7

Numbers = npt.NDArray[np.int64]


def look_at_whole(file: RowFile, seen: RowPass, task: DetectedTask, findings: LintFindings, *, is_validation: bool) -> None:  # fmt: skip
    totals = seen.totals
    least = 1 if is_validation else MIN_ROWS
    if totals.num_lines < least and seen.form_problem is None and seen.method != "unsupervised":
        findings.add_of_file(
            "E107", f"the file has {totals.num_lines} rows, and at least {least} are needed"
        )
    if totals.num_rows and not totals.num_learnt_chars and not totals.num_with_calls:
        findings.add_of_file("E113", "every answer is empty or has the weight 0")
    look_at_refusals(totals.num_rows, findings)
    if not totals.num_rows:
        return
    _look_at_systems(seen, findings)
    _look_at_styles(file, seen, findings)
    _look_at_lengths(file, task, findings)
    seen.sample.look_at_languages(findings, task.type)
    if not is_validation:
        _look_at_size(task, totals.num_rows, findings)
        _look_at_classes(file, task, findings)


def look_at_refusals(num_rows: int, findings: LintFindings) -> None:
    """A few are an answer like others."""
    if findings.counts["W513"] <= _MIN_REFUSALS * num_rows:
        findings.forget("W513")


def _look_at_size(task: DetectedTask, num_rows: int, findings: LintFindings) -> None:
    least = _TOO_FEW.get(task.type)
    if least is not None and num_rows < least:
        findings.add_of_file(
            "W501", f"{num_rows} rows for a task of the type {task.type}; {least} are a beginning"
        )


def _look_at_classes(file: RowFile, task: DetectedTask, findings: LintFindings) -> None:
    values, first, counts = np.unique(file.answer, return_index=True, return_counts=True)
    num_rows = len(file.answer)
    if len(values) == 1 and num_rows > 1:
        findings.add_of_file("W511", f"every row is answered with {excerpt(file.texts(0)[1])}")
        return
    if task.type != "class" or len(values) > _MAX_CLASSES:
        return
    for place in np.argsort(-counts, kind="stable").tolist():
        count, label = int(counts[place]), excerpt(file.texts(int(first[place]))[1])
        if count > _MAX_SHARE * num_rows:
            findings.add_of_file(
                "W502", f"{label} is the answer of {100 * count // num_rows} % of the rows"
            )
        elif count < _MIN_OF_CLASS:
            findings.add_of_file(
                "W502", f"{label} is the answer of {count} row{'s' if count > 1 else ''} only"
            )
        elif count < _WANTED_OF_CLASS:
            findings.add_of_file(
                "W501",
                f"{label} has {count} rows; {_WANTED_OF_CLASS} of each class are a beginning",
            )
    changes = int(np.count_nonzero(file.answer[1:] != file.answer[:-1]))
    if changes == len(values) - 1 and num_rows >= 2 * len(values):
        findings.add_of_file(
            "I512", f"the rows of each of the {len(values)} classes stand together"
        )


def _look_at_systems(seen: RowPass, findings: LintFindings) -> None:
    totals = seen.totals
    if not totals.systems:
        return
    spellings: dict[str, list[tuple[int, int, str]]] = {}
    for text, (count, line) in totals.systems.items():
        spellings.setdefault(" ".join(text.split()), []).append((count, line, text))
    for variants in spellings.values():
        variants.sort(key=lambda v: (-v[0], v[1]))
        for count, line, _ in variants[1:]:
            findings.add("W505", line, f"{count} row{'s' if count > 1 else ''} from here on with other white space than line {variants[0][1]}")  # fmt: skip
    most = max(sum(count for count, _, _ in variants) for variants in spellings.values())
    without = totals.num_rows - totals.num_with_system
    if max(most, without) < 0.95 * totals.num_rows:
        none = f", and {without} rows have none" if without else ""
        findings.add_of_file(
            "W504", f"there are {len(spellings)}; the most frequent one is that of {100 * most // totals.num_rows} % of the rows{none}"
        )  # fmt: skip


def canonical_systems(systems: Mapping[str, list[int]]) -> dict[str, str]:
    """For each system message that differs from a more frequent one in white space only, that one."""
    groups: dict[str, list[tuple[int, int, str]]] = {}
    for text, (count, line) in systems.items():
        groups.setdefault(" ".join(text.split()), []).append((-count, line, text))
    usual = {key: min(variants)[2] for key, variants in groups.items()}
    found = {text: usual[" ".join(text.split())] for text in systems}
    return {text: other for text, other in found.items() if text != other}


def _look_at_styles(file: RowFile, seen: RowPass, findings: LintFindings) -> None:
    style = file.columns.read("style")
    num_rows, is_json = len(style), style > 0
    num_json = int(np.count_nonzero(is_json))
    if num_json < _HALF_FROM * num_rows:
        return
    if num_json < num_rows:
        said = f"no JSON, as {100 * num_json // num_rows} % of the answers are"
        _tell_others(file.number[~is_json], "W506", said, findings)
    numbers, style, styles = file.number[is_json], style[is_json] - 1, seen.styles.all
    sets = [frozenset(each.keys) for each in styles]
    of_set, usual, share = _most(style, sets)
    if _HALF_FROM <= share < 1:
        named = ", ".join(sorted(sets[usual])[:8])
        _tell_others(numbers[~of_set], "W506", f"other keys than {named}", findings)
    of_fence, usual, share = _most(style, [each.is_fenced for each in styles])
    if _HALF_FROM <= share < 1:
        odd = (
            "without a fence, as most have"
            if styles[usual].is_fenced
            else "in a fence, which most have not"
        )
        _tell_others(numbers[~of_fence], "W506", odd, findings)
    of_form, usual, _ = _most(style[of_set], [(each.keys, each.spacing) for each in styles])
    order = ", ".join(styles[usual].keys[:8])
    said = f"most answers have the order {order} and {_SPACINGS[styles[usual].spacing]}"
    _tell_others(numbers[of_set][~of_form], "W507", said, findings)


def _most(style: Numbers, kinds: Sequence[object]) -> tuple[npt.NDArray[np.bool_], int, float]:
    """Which rows are of the most frequent kind, a style of that kind, and the share of those rows."""
    places: dict[object, int] = {}
    kind_of_style = np.array([places.setdefault(kind, len(places)) for kind in kinds])
    kind_of_row = kind_of_style[style]
    usual = int(np.bincount(kind_of_row).argmax())
    is_usual = kind_of_row == usual
    return is_usual, int(np.flatnonzero(kind_of_style == usual)[0]), float(is_usual.mean())


_SPACINGS = {"lines": "line breaks", "spaces": "spaces behind colons", "none": "no spaces"}


def _tell_others(lines: Numbers, code: str, said: str, findings: LintFindings) -> None:
    for line in lines.tolist():
        findings.add(code, line, said)


def _look_at_lengths(file: RowFile, task: DetectedTask, findings: LintFindings) -> None:
    chars = file.columns.read("answer_chars")
    learnt = file.columns.read("learnt_chars")
    total = int(learnt.sum())
    if len(learnt) >= MIN_ROWS and total:
        for index in np.flatnonzero(learnt > 0.2 * total).tolist():
            share = 100 * int(learnt[index]) // total
            findings.add("W514", int(file.number[index]), f"{share} % of all that is learnt")
    if task.type in ("class", "number", "tools", "extract") or len(chars) < MIN_ROWS:
        return
    median = float(np.median(chars))
    if median < 20:
        return
    for index in np.flatnonzero((chars > 8 * median) | (chars < median / 8)).tolist():
        findings.add(
            "W508",
            int(file.number[index]),
            f"{chars[index]} characters, where the median is {median:.0f}",
        )


def look_at_drift(
    training: RowFile, validation: RowFile, ours: RowPass, theirs: RowPass, findings: LintFindings
) -> None:
    """W509 and W503: how the two files differ."""
    if not findings.wants("W509") or min(len(training.number), len(validation.number)) < _MIN_SIDE:
        return
    for name, what in (("prompt_chars", "prompts"), ("answer_chars", "answers")):
        found = auc(*(_drawn(file.columns, name) for file in (training, validation)))
        if max(found, 1 - found) > _MAX_AUC:
            longer = "training" if found > 0.5 else "validation"
            findings.add_of_file(
                "W509", f"{what} of the {longer} file are longer (AUC {max(found, 1 - found):.2f})"
            )
    found, telling = separation(ours.sample.rows, theirs.sample.rows)
    if found > _MAX_AUC:
        words = ", ".join(telling)
        findings.add_of_file("W509", f"words tell the two files apart (AUC {found:.2f}): {words}")


def _drawn(columns: RowColumns, name: str) -> list[float]:
    values = columns.read(name)
    return values[:: max(len(values) // 10_000, 1)].astype(float).tolist()  # type: ignore[no-any-return]


def look_at_new_values(training: RowFile, validation: RowFile, task: DetectedTask, other: DetectedTask, findings: LintFindings) -> None:  # fmt: skip
    """W503: values of few that there are, which training never shows."""
    if task.type == "class":
        _, first = np.unique(validation.answer, return_index=True)
        missing = first[~np.isin(validation.answer[first], training.answer)]
        for index in sorted(missing.tolist())[:_MAX_CLASSES]:
            label = excerpt(validation.texts(index)[1])
            findings.add_of_file(
                "W503", f"{label}, line {validation.number[index]} of the validation file"
            )
    for key, field in task.fields.items():
        theirs = other.fields.get(key)
        if field.kind == "closed" and theirs is not None and theirs.kind == "closed":
            for value in theirs.values:
                if value not in field.values:
                    findings.add_of_file("W503", f"{json.dumps(key)}: {value[:60]}")
