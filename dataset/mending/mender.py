"""Mends a file: a new one is written, row by row, and what was changed is counted by code."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dataset.lint.catalogue import CATALOGUE
from dataset.lint.linter import Linted, LintOptions, linted
from dataset.lint.reading import blocks
from dataset.lint.report import LintReport
from dataset.lint.texts.rules import special_tokens_pattern
from foundation.jsonl import BadLine, read_line

from .rows import DROPPED, changed, repaired


class NotMendable(ValueError):
    """Nothing was written; `str()` says why."""


@dataclass
class MendReport:
    lint: LintReport
    """Of the file as it was."""
    out: Path
    num_rows: int = 0
    """In the new file."""
    changed: Counter[str] = field(default_factory=Counter)
    """Rows that were changed, by code."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows that are not in the new file, by the code for which each was left out; one that cannot be converted by E104."""

    def lines(self) -> list[str]:
        said = [f"{code}: {num} changed" for code, num in sorted(self.changed.items())]
        said += [f"{code}: {num} left out" for code, num in sorted(self.dropped.items())]
        return [*said, f"wrote {self.num_rows} rows to {self.out}"]

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "rows": self.num_rows,
            "changed": dict(self.changed),
            "dropped": dict(self.dropped),
        }


def mended_codes(also: Iterable[str] = (), *, all_of_them: bool = False) -> frozenset[str]:
    """Those that are mended by themselves, and those that are asked for. Raises ValueError."""
    by_kind = {code.id: code.mended_by for code in CATALOGUE if code.mended_by}
    unknown = sorted(set(also) - by_kind.keys())
    if unknown:
        raise ValueError(
            f"nothing mends {unknown[0]!r}; what can be mended is {', '.join(by_kind)}"
        )
    return frozenset(c for c, kind in by_kind.items() if kind == "M" or all_of_them or c in also)


def mend(
    path: Path,
    out: Path,
    validation: Path | None = None,
    options: LintOptions | None = None,
    codes: frozenset[str] | None = None,
    *,
    drops_unmapped: bool = False,
) -> MendReport:
    """Write `out`, a mended copy of the training file. Raises NotMendable and OSError.

    Rows that cannot be converted are left out only with `drops_unmapped`.
    """
    for other in (path, validation):
        if other is not None and out.exists() and out.samefile(other):
            raise NotMendable(f"{out} would be overwritten, and a file is never mended in place")
    options = replace(options or LintOptions(), keeps_lines=True)
    names = (path.name, validation.name if validation else "")
    with linted(path, validation, options, names) as found:
        wanted = (mended_codes() if codes is None else codes) & options.codes
        unmapped = found.findings.counts["E104"] if found.conversion is not None else 0
        if unmapped and not drops_unmapped:
            first = next(f for f in found.findings.shown() if f.code == "E104")
            raise NotMendable(
                f"{unmapped} rows cannot be converted, and none is left out unasked: {first}; mend them, or leave them "
                "out with --mend-all"
            )
        report = MendReport(found.report, out)
        if unmapped:
            report.dropped["E104"] = unmapped
        partial = out.with_name(f".{out.name}.partial")
        try:
            _write(found, partial, wanted, options, report)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    return report


def _write(
    found: Linted, out: Path, wanted: frozenset[str], options: LintOptions, report: MendReport
) -> None:
    codes_of = _codes_by_line(found, wanted)
    systems = found.systems if "W505" in wanted else {}
    specials = special_tokens_pattern(
        options.template.tokenizer.special_tokens if options.template else ()
    )
    if found.conversion is not None and "W120" in wanted:
        report.changed["W120"] = found.report.files[0].num_rows
    with out.open("wb") as file:
        for block in blocks(found.rows_path):
            for index, line in enumerate(block.lines):
                number = block.number + index
                if not line.strip():
                    continue
                codes = codes_of.get(number, frozenset())
                reason = next((code for code in sorted(codes) if code in DROPPED), None)
                if reason is not None:
                    report.dropped[reason] += 1
                    continue
                if codes or systems:
                    line = _mended(line, number, codes, systems, specials, report)
                file.write(line.rstrip(b"\r") + b"\n")
                report.num_rows += 1
            options.step()


def _mended(
    line: bytes,
    number: int,
    codes: frozenset[str],
    systems: Mapping[str, str],
    specials: Any,
    report: MendReport,
) -> bytes:
    """The line as it is, if nothing can be done about it."""
    try:
        row = repaired(line, number) if "E101" in codes else read_line(line, number)
    except BadLine:
        return line
    if row is None:
        return line
    new = changed(row, codes, systems, specials)
    if new == row and "E101" not in codes:
        return line
    report.changed.update(codes or {"W505"})
    return orjson.dumps(new)


def _codes_by_line(found: Linted, wanted: frozenset[str]) -> dict[int, frozenset[str]]:
    """Of rows that are to be changed or left out."""
    by_line: dict[int, frozenset[str]] = {}
    for code in sorted(wanted):
        for number in np.unique(np.frombuffer(found.findings.lines(code), np.uint64)).tolist():
            by_line[number] = by_line.get(number, frozenset()) | {code}
    return by_line
