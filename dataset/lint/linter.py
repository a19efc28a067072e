"""The linter as a whole: a training file, and a validation file beside it, read once each in bounded memory.

Of each row some 40 bytes are kept, and 96 more where near repeats are looked for: on disk, in a folder that goes when the
linter is done. Texts are not kept; what is told of two rows is read again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from dataset.conversion.recognise import PLAIN_TEXT, Conversion, recognise
from dataset.conversion.rows import Unmapped
from dataset.conversion.tables import NotConvertible
from text.chat_template import ChatTemplate

from . import figures, repeats, tokens, whole
from .catalogue import CODES, selected
from .columns import RowColumns
from .findings import LintFindings
from .near import Sketches
from .reading import blocks
from .repeats import RowFile
from .report import LintedFile, LintReport, Role
from .rows import RowPass
from .texts import personal, rules

VERSION = 1
"""Of what is found: a kept report of another version is made anew."""


@dataclass(frozen=True)
class LintOptions:
    codes: frozenset[str] = frozenset(CODES)
    method: str | None = None
    """By default the one that learns from such rows."""
    finds_near: bool = True
    template: ChatTemplate | None = None
    """Of a base: then tokens are counted, and what is cut at its context is found."""
    max_seq_len: int = 2048
    columns: Mapping[str, str] | None = None
    """Of a CSV: which is the prompt, and which the answer."""
    to_chat: bool = False
    keeps_lines: bool = False
    """Those of all findings, for mending."""
    step: Callable[[], None] = field(default=lambda: None)
    """Called now and then; what it raises ends the work."""

    @classmethod
    def of(
        cls, select: tuple[str, ...] = (), ignore: tuple[str, ...] = (), **others: object
    ) -> LintOptions:
        """Raises ValueError for a code that there is not."""
        return cls(codes=selected(select, ignore), **others)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Linted:
    """A report, and what mending needs besides."""

    report: LintReport
    findings: LintFindings
    systems: dict[str, str]
    """System messages, and what they become, if they differ from a more frequent one in white space only."""
    conversion: Conversion | None
    rows_path: Path
    """The rows as JSON Lines: the file itself, or what it was converted to. It is there as long as the linter's folder."""


def lint(
    path: Path,
    validation: Path | None = None,
    options: LintOptions | None = None,
    *,
    filename: str | None = None,
    validation_filename: str | None = None,
) -> LintReport:
    """What is wrong with the file. Raises OSError."""
    names = (filename or path.name, validation_filename or (validation.name if validation else ""))
    with linted(path, validation, options or LintOptions(), names) as found:
        return found.report


@contextmanager
def linted(
    path: Path, validation: Path | None, options: LintOptions, names: tuple[str, str]
) -> Iterator[Linted]:
    started = time.process_time()
    with tempfile.TemporaryDirectory(prefix="luthier-lint-") as name, ExitStack() as stack:
        folder = Path(name)
        ours = _FileWork(path, names[0], folder, options, stack)
        theirs = None
        if validation is not None:
            theirs = _FileWork(validation, names[1], folder, options, stack, is_validation=True)
        ours.look_within()
        if theirs is not None:
            theirs.look_within()
            _look_across(ours, theirs)
        figures.tell(
            ours.seen, ours.task, ours.columns, ours.findings, theirs.seen if theirs else None
        )
        files = [work.linted_file() for work in (ours, theirs) if work is not None]
        report = LintReport(files, VERSION, time.process_time() - started)
        systems = whole.canonical_systems(ours.seen.totals.systems)
        yield Linted(report, ours.findings, systems, ours.conversion, ours.rows_path)


class _FileWork:
    """One of the files on its way through the linter."""

    def __init__(
        self,
        path: Path,
        filename: str,
        folder: Path,
        options: LintOptions,
        stack: ExitStack,
        *,
        is_validation: bool = False,
    ) -> None:
        self._path, self._filename, self._options = path, filename, options
        self._is_validation = is_validation
        self._role: Role = "validation" if is_validation else "training"
        self.findings = LintFindings(options.codes, keeps_lines=options.keeps_lines)
        self.columns, self._prompts, self._whole_rows = (
            stack.enter_context(_closing(RowColumns(folder, f"{self._role}.{part}")))
            for part in ("columns", "prompts", "rows")
        )
        specials = options.template.tokenizer.special_tokens if options.template else ()
        self.seen = RowPass(
            self.findings,
            self.columns,
            [*rules.rules(specials), *personal.rules()],
            method=options.method,
            sketches=Sketches(self._prompts, self._whole_rows) if options.finds_near else None,
        )
        self.conversion: Conversion | None = None
        self.rows_path = path
        self._read(folder)
        self.file = RowFile(self.rows_path, self.columns, self._prompts, self._whole_rows, stack)
        self.task = self.seen.sample.task.result()

    def _read(self, folder: Path) -> None:
        options = self._options
        try:
            self.conversion = recognise(
                self._path, self._filename, columns=options.columns, to_chat=options.to_chat
            )
            if self.conversion is not None:
                self.rows_path = folder / f"{self._role}.jsonl"
                self._convert(self.conversion)
        except NotConvertible as error:
            code = "E103" if "UTF" in str(error) else "E101"
            self.findings.add_of_file(code, str(error))
            self.rows_path = folder / f"{self._role}.nothing"
            self.rows_path.touch()
        for block in blocks(self.rows_path):
            self.seen.see(block)
            options.step()
        if (problem := self.seen.form_problem) is not None:
            self.findings.add_of_file("E105", problem.text)

    def _convert(self, conversion: Conversion) -> None:
        """Each row on the line of its number, so that it is found there again."""
        line, num_unmapped = 1, 0
        with self.rows_path.open("wb") as file:
            for number, row in conversion.rows():
                if isinstance(row, Unmapped):
                    num_unmapped += 1
                    self.findings.add("E104", number, str(row))
                    continue
                file.write(b"\n" * (number - line) + orjson.dumps(row))
                line = number
                self._options.step()
            file.write(b"\n")
        if conversion.name == PLAIN_TEXT:
            return
        left_out = ", ".join(
            f'"{key}" ({count})' for key, count in conversion.left_out.most_common(8)
        )
        said = f"these are {conversion.name}" + (
            f"; without a counterpart: {left_out}" if left_out else ""
        )
        refused = f"; {num_unmapped} rows cannot be converted" if num_unmapped else ""
        self.findings.add_of_file("W120", said + refused)

    def look_within(self) -> None:
        whole.look_at_whole(
            self.file, self.seen, self.task, self.findings, is_validation=self._is_validation
        )
        repeats.look_within(
            self.file, self.findings, closed_answers=self.task.type in ("class", "json")
        )
        if self._options.template is not None and self.seen.row_format is not None:
            tokens.look_at_tokens(
                self.rows_path,
                self.seen.row_format,
                self._options.template,
                self._options.max_seq_len,
                self.findings,
                self._options.step,
            )

    def linted_file(self) -> LintedFile:
        totals = self.seen.totals
        return LintedFile(
            role=self._role,
            name=self._filename,
            num_bytes=self._path.stat().st_size,
            num_rows=totals.num_lines,
            method=self.seen.method,
            task=self.task.type if totals.num_rows else None,
            converted_from=self.conversion.name if self.conversion else None,
            counts=dict(self.findings.counts),
            findings=self.findings.shown(),
        )


def _look_across(ours: _FileWork, theirs: _FileWork) -> None:
    repeats.look_across(ours.file, theirs.file, ours.findings)
    whole.look_at_drift(ours.file, theirs.file, ours.seen, theirs.seen, ours.findings)
    whole.look_at_new_values(ours.file, theirs.file, ours.task, theirs.task, ours.findings)


@contextmanager
def _closing(columns: RowColumns) -> Iterator[RowColumns]:
    try:
        yield columns
    finally:
        columns.close()
