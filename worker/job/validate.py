"""Is this a file that can be trained on? Streams it from its blob, row by row, to a local path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataset import rows as examples
from foundation.jsonl import BadLine, LineReader

from .ending import JobFailed

Role = Literal["training", "validation"]

MIN_EXAMPLES = {"training": 10, "validation": 1}
MAX_PROBLEMS = 50
"""Where the search for more ends; one bad line is often the first of as many as there are lines."""

_CAUSES = {
    "invalid_file_format": "The job failed due to a file format error in the {role} file.",
    "invalid_training_file": "The job failed due to an invalid {role} file.",
}


@dataclass(frozen=True)
class Statistics:
    """What the automatic hyperparameters depend on."""

    num_examples: int
    num_supervised_bytes: int
    """UTF-8 bytes of all that is learnt from."""


class InvalidFile(JobFailed):
    """The file cannot be trained on."""


def validate(chunks: Iterable[bytes], local: Path, *, file_id: str, role: Role) -> Statistics:
    """Write the file's bytes to `local` and check every row. Raises InvalidFile."""
    checker = _Checker(file_id)
    reader = LineReader()
    with local.open("wb") as copy:
        for chunk in chunks:
            copy.write(chunk)
            checker.check(reader, reader.feed(chunk))
            if checker.is_hopeless:
                break
        else:
            checker.check(reader, reader.close())
    return checker.conclude(role)


class _Checker:
    """Counts the good rows and collects what is wrong with the others."""

    def __init__(self, file_id: str) -> None:
        self._file_id = file_id
        self._format: examples.Format | None = None
        self.is_hopeless = False
        """There is no point in looking further."""
        self._problems: list[examples.Problem] = []
        self._num_examples = 0
        self._num_supervised_bytes = 0

    def check(self, reader: LineReader, rows: Iterator[tuple[int, examples.Row]]) -> None:
        while not self.is_hopeless:
            try:
                for number, row in rows:
                    self._check_row(number, row)
                    if self.is_hopeless:
                        break
                return
            except BadLine as error:
                self._add(examples.Problem("invalid_file_format", str(error)))
                # The reader stands behind the bad line now.
                rows = reader.feed(b"")

    def _check_row(self, number: int, row: examples.Row) -> None:
        self._num_examples += 1
        if self._format is None:
            found = examples.format_of(row, self._file_id)
            if isinstance(found, examples.Problem):
                self._add(found)
                self.is_hopeless = True
                return
            self._format = found
        problem = examples.problem_of(row, number, self._format)
        if problem is not None:
            self._add(problem)
        else:
            self._num_supervised_bytes += examples.supervised_bytes(row, self._format)

    def _add(self, problem: examples.Problem) -> None:
        self._problems.append(problem)
        self.is_hopeless = len(self._problems) >= MAX_PROBLEMS

    def conclude(self, role: Role) -> Statistics:
        if self._problems:
            raise self._refusal(role)
        if self._num_examples < MIN_EXAMPLES[role]:
            raise InvalidFile(
                "invalid_n_examples",
                f"{role.capitalize()} file has {self._num_examples} example(s), but must have at "
                f"least {MIN_EXAMPLES[role]} examples",
                f"{role}_file",
            )
        return Statistics(self._num_examples, self._num_supervised_bytes)

    def _refusal(self, role: Role) -> InvalidFile:
        first = self._problems[0]
        message = f"{_CAUSES[first.code].format(role=role)} {first.text}"
        others = len(self._problems) - 1
        if others:
            at_least = "at least " if len(self._problems) >= MAX_PROBLEMS else ""
            message += f" ({at_least}{others} more {'problem' if others == 1 else 'problems'})"
        code = first.code.replace("training", role)
        problems = [problem.text for problem in self._problems]
        return InvalidFile(code, message, f"{role}_file", problems=problems)
