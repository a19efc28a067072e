"""What the linter finds: a count for each code, the first few in words, and the lines of all if they are to be mended."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from .catalogue import CATALOGUE, CODES

MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    code: str
    line: int | None
    """1-based; None for what is said of the file. In .txt files it is the document's number."""
    path: str
    """Within the row, such as messages[2].content; empty for all of it."""
    message: str

    @property
    def mend(self) -> str:
        return CODES[self.code].mend

    def __str__(self) -> str:
        where = "" if self.line is None else f" line {self.line}"
        where += f", {self.path}" if self.path else ""
        mend = f" Mend: {self.mend}." if self.mend else ""
        return f"{self.code}{where}: {self.message}.{mend}"


class LintFindings:
    """Those of one file."""

    def __init__(self, wanted: Collection[str], *, keeps_lines: bool = False) -> None:
        self._wanted = frozenset(wanted)
        self._keeps_lines = keeps_lines
        self._shown: dict[str, list[Finding]] = {}
        self._lines: dict[str, array[int]] = {}
        self.counts: Counter[str] = Counter()

    def wants(self, code: str) -> bool:
        return code in self._wanted

    def count(self, code: str, line: int) -> bool:
        """One more. Whether it is to be told in words: one of the first, of a code that is wanted."""
        if code not in self._wanted:
            return False
        self.counts[code] += 1
        if self._keeps_lines:
            self._lines.setdefault(code, array("Q")).append(line)
        return self.counts[code] <= MAX_SHOWN

    def tell(self, code: str, line: int | None, message: str, path: str = "") -> None:
        """The words for what `count` counted."""
        self._shown.setdefault(code, []).append(Finding(code, line, path, message))

    def add(self, code: str, line: int, message: str, path: str = "") -> None:
        if self.count(code, line):
            self.tell(code, line, message, path)

    def add_of_file(self, code: str, message: str) -> None:
        if code in self._wanted:
            self.counts[code] += 1
            if self.counts[code] <= MAX_SHOWN:
                self.tell(code, None, message)

    def forget(self, code: str) -> None:
        """What was found of the code is nothing to tell after all."""
        self.counts.pop(code, None)
        self._shown.pop(code, None)
        self._lines.pop(code, None)

    def shown(self) -> list[Finding]:
        """In the order of the catalogue."""
        return [finding for code in CATALOGUE for finding in self._shown.get(code.id, ())]

    def lines(self, code: str) -> array[int]:
        """Of all findings of the code, in the order in which they were found."""
        return self._lines.get(code, array("Q"))
