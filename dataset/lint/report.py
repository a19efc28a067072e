"""A linter's report, as lines for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .catalogue import CATALOGUE, CODES
from .findings import Finding

Role = Literal["training", "validation"]


@dataclass(frozen=True)
class LintedFile:
    role: Role
    name: str
    num_bytes: int
    num_rows: int
    method: str | None
    """None if no method learns from its rows."""
    task: str | None
    """What it teaches, see `dataset.task_type`; None without a row that can be read."""
    converted_from: str | None
    counts: Mapping[str, int]
    """Of all findings, by code."""
    findings: list[Finding]
    """The first few of each code."""

    def lines(self) -> Iterator[str]:
        """A finding a line, and behind the first few of a code how many there are besides."""
        for code in CATALOGUE:
            shown = [finding for finding in self.findings if finding.code == code.id]
            yield from map(str, shown)
            if shown and (more := self.counts[code.id] - len(shown)) > 0:
                yield f"{code.id}: {more} more"


@dataclass(frozen=True)
class LintReport:
    files: list[LintedFile]
    version: int
    cpu_s: float

    def num_of(self, severity: str) -> int:
        """LintFindings of the severity: error, warning, info."""
        return sum(
            count
            for file in self.files
            for code, count in file.counts.items()
            if CODES[code].severity == severity
        )

    @property
    def summary(self) -> str:
        parts = []
        for severity in ("error", "warning"):
            num = self.num_of(severity)
            parts.append(f"{num or 'no'} {severity}{'' if num == 1 else 's'}")
        rows = ", ".join(f"{file.num_rows} rows in {file.name}" for file in self.files)
        return f"{rows}: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "object": "lint.report",
            "version": self.version,
            "errors": self.num_of("error"),
            "warnings": self.num_of("warning"),
            "files": [
                {
                    **asdict(file),
                    "findings": [
                        {**asdict(f), "severity": CODES[f.code].severity, "mend": f.mend or None}
                        for f in file.findings
                    ],
                }
                for file in self.files
            ],
        }
