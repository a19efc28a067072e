"""Can a base be trained on this file? One pass checks each row and tokenises it.

The worker makes it before it decides anything about a job, and the trainer reads what it wrote: so what is
accepted here can be trained on, and what is counted here is what is trained on. The rows are read by
`foundation.documents`, as they are when a file is uploaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from foundation.documents import RowReader
from foundation.jsonl import BadLine, LineReader
from text.chat_template import ChatTemplate, TokenizedExample
from text.messages import ChatTemplateError

from .formats.first_row import format_of
from .formats.labelled import LabelledRows
from .formats.row_format import Problem, Row, RowFormat, problem_of
from .labels import Labels
from .tokenized import Statistics, Tally

Role = Literal["training", "validation"]

MIN_EXAMPLES = {"training": 10, "validation": 1}
MAX_PROBLEMS = 50
"""Where the search for more ends; one bad line is often the first of as many as there are lines."""

_CAUSES = {
    "invalid_file_format": "The job failed due to a file format error in the {role} file.",
    "invalid_training_file": "The job failed due to an invalid {role} file.",
}


class InvalidFile(Exception):
    """The file cannot be trained on, in the words and codes of OpenAI's job errors."""

    def __init__(
        self, code: str, message: str, role: Role, problems: Iterable[Problem] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = f"{role}_file"
        self.problems = list(problems)
        """All that is wrong with its rows, as far as it was searched for."""


def validate(
    chunks: Iterable[bytes],
    folder: Path,
    template: ChatTemplate,
    *,
    max_seq_len: int,
    role: Role,
    file_id: str,
    method: str,
    overlap: int | None = None,
    labels: Labels | None = None,
    reader: RowReader | None = None,
) -> Statistics:
    """Check every row of the file that `chunks` make, and tokenise it into the new `folder`.

    Rows of more tokens than `max_seq_len` lose their end, or with an `overlap` become several windows, or if they
    hold several answers, their prompt loses its beginning. Those that have `labels`, which are collected there, are
    left out, for the label is at the end.
    Chunks of a moderate size let their maker tell how far the reading is, or end it by raising. Raises
    InvalidFile, and OSError when the disk is full. `reader` is that of the file's name; JSON Lines without it.
    """
    digest = hashlib.sha256()
    reader = reader or LineReader()
    with Tally(folder, template, max_seq_len, overlap, are_whole=labels is not None) as tally:
        checker = _Checker(tally, template, file_id, method, labels)
        for chunk in chunks:
            digest.update(chunk)
            checker.check(reader, reader.feed(chunk))
            if checker.is_hopeless:
                break
        else:
            checker.check(reader, reader.close())
        if checker.problems:
            raise _refusal(checker.problems, role)
        _check_enough(tally, role)
        if labels is not None and (problem := labels.close()) is not None:
            raise _refusal([problem], role)
        return tally.finish(digest.hexdigest())


class _Checker:
    """Passes the good rows on and collects what is wrong with the others."""

    def __init__(
        self,
        tally: Tally,
        template: ChatTemplate,
        file_id: str,
        method: str,
        labels: Labels | None,
    ) -> None:
        self._tally = tally
        self._labels = labels
        self.problems: list[Problem] = []
        self.is_hopeless = False
        """There is no point in looking further."""
        self._template = template
        self._file_id = file_id
        self._method = method
        self._format: RowFormat | None = None

    def check(self, reader: RowReader, lines: Iterator[tuple[int, Row]]) -> None:
        while not self.is_hopeless:
            try:
                for number, row in lines:
                    self._check_row(number, row)
                    if self.is_hopeless:
                        break
                return
            except BadLine as error:
                self._add(Problem("invalid_file_format", str(error)))
                # The reader stands behind the bad line now.
                lines = reader.feed(b"")

    def _check_row(self, number: int, row: Row) -> None:
        if self._format is None:
            found = format_of(row, self._file_id, self._method)
            if not isinstance(found, Problem):
                found = self._form_problem(found) or found
            if isinstance(found, Problem):
                self._add(found)
                self.is_hopeless = True
                return
            self._format = found
        tokenized = _tokenized(row, number, self._format, self._template)
        if not isinstance(tokenized, Problem):
            tokenized = self._label_problem(row, number, tokenized) or tokenized
        if isinstance(tokenized, Problem):
            self._add(tokenized)
        elif not self.problems:
            self._tally.add(number, self._as_learnt(row, tokenized))

    def _form_problem(self, row_format: RowFormat) -> Problem | None:
        """Labels are asked for in one way: that of the first file."""
        if self._labels is None or not isinstance(row_format, LabelledRows):
            return None
        wanted = self._labels.form = self._labels.form or row_format.form
        if row_format.form == wanted:
            return None
        text = (
            f"Its rows are of the form '{row_format.form}', those of the training file '{wanted}'."
        )
        return Problem("invalid_training_file", text, is_the_bases=True)

    def _label_problem(
        self, row: Row, number: int, sequences: Sequence[TokenizedExample]
    ) -> Problem | None:
        if self._labels is None or not isinstance(self._format, LabelledRows):
            return None
        (tokenized,) = sequences
        if not self._tally.has_room_for(tokenized):
            return None
        learnt = tuple(i for i, w in zip(tokenized.input_ids, tokenized.weights, strict=True) if w)
        return self._labels.see(number, self._format.label(row), learnt)

    def _as_learnt(
        self, row: Row, sequences: Sequence[TokenizedExample]
    ) -> Sequence[TokenizedExample]:
        labels, row_format = self._labels, self._format
        if labels is None or not labels.are_rows or not isinstance(row_format, LabelledRows):
            return sequences
        (tokenized,) = sequences
        if not self._tally.has_room_for(tokenized):
            # It is left out, and so its label may not be known.
            return sequences
        return [labels.as_learnt(row_format.label(row), tokenized)]

    def _add(self, problem: Problem) -> None:
        self.problems.append(problem)
        self.is_hopeless = len(self.problems) >= MAX_PROBLEMS


def _tokenized(
    row: Row, number: int, row_format: RowFormat, template: ChatTemplate
) -> Sequence[TokenizedExample] | Problem:
    """The file's row `number`, or what is wrong with it."""
    problem = problem_of(row, number, row_format)
    if problem is not None:
        return problem
    try:
        return row_format.tokenize(row, template)
    except ChatTemplateError as error:
        text = f"Invalid file format. Example {number}: {error}."
        return Problem("invalid_file_format", text, is_the_bases=True)


def _check_enough(tally: Tally, role: Role) -> None:
    # A long text alone is as good as many short ones.
    found, least = max(tally.num_rows, tally.num_examples), MIN_EXAMPLES[role]
    if found < least:
        raise InvalidFile(
            "invalid_n_examples",
            f"{role.capitalize()} file has {found} example(s), but must have at "
            f"least {least} examples{tally.what_counts}",
            role,
        )
    if not tally.num_examples:
        text = f"No example has a token to learn from{tally.why_none}."
        raise _refusal([Problem("invalid_training_file", text, is_the_bases=True)], role)


def _refusal(problems: list[Problem], role: Role) -> InvalidFile:
    """The first problem, and how many there are besides."""
    first, others = problems[0], len(problems) - 1
    message = f"{_CAUSES[first.code].format(role=role)} {first.text}"
    if others:
        at_least = "at least " if len(problems) >= MAX_PROBLEMS else ""
        message += f" ({at_least}{others} more {'problem' if others == 1 else 'problems'})"
    return InvalidFile(first.code.replace("training", role), message, role, problems)
