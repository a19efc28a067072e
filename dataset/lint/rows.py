"""Row by row: what is wrong with each, and what is kept of it to compare it with the others."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dataset.formats.first_row import format_of
from dataset.formats.row_format import Problem, Row, RowFormat, problem_of
from foundation.jsonl import BadLine, read_line

from .columns import RowColumns
from .findings import LintFindings
from .forms import Said, method_of, other_form, said_in
from .near import Sketches
from .reading import LineBlock, QuickReader, scanned
from .samples import RowSample
from .styles import Styles
from .texts.rules import TextRule
from .turns import RoleOrder, is_placeholder, look_at_calls, look_at_roles

MAX_SYSTEMS = 10_000
"""Different system messages that are told apart."""
_BAD_LINES = {"json": "E101", "object": "E102", "encoding": "E103"}
_MIN_COPY_CHARS = 20


@dataclass
class Totals:
    """Of the rows that have no problem, unless it says otherwise."""

    num_lines: int = 0
    """Of rows, bad ones too."""
    num_rows: int = 0
    num_learnt_chars: int = 0
    num_with_system: int = 0
    num_with_calls: int = 0
    """That are learnt."""
    systems: dict[str, list[int]] = field(default_factory=dict)
    """System messages: how many rows have each, and the line of the first."""


class RowPass:
    """Sees one file, a block after the other."""

    def __init__(
        self,
        findings: LintFindings,
        columns: RowColumns,
        rules: Sequence[TextRule],
        *,
        method: str | None,
        sketches: Sketches | None,
    ) -> None:
        self.method = method
        self.row_format: RowFormat | None = None
        """Of the first row; None while there was none, or if no job learns from such rows."""
        self.form_problem: Problem | None = None
        self.totals = Totals()
        self.sample = RowSample()
        self.styles = Styles()
        self._findings = findings
        self._columns = columns
        self._rules = [rule for rule in rules if findings.wants(rule.code)]
        self._sketches = sketches
        self._quick: QuickReader | None = None
        self._ends: tuple[list[int], ...] = ()

    def see(self, block: LineBlock) -> None:
        if self.row_format is None and self.form_problem is None:
            self._look_for_first(block)
        rows: list[tuple[Said, RoleOrder] | None] = [None] * len(block.lines)
        if self._quick is not None:
            rows = self._quick.read(block)
        kept = _Kept()
        for index, row in enumerate(rows):
            if row is None:
                row = rows[index] = self._read_strictly(block.lines[index], block.number + index)
                if row is None:
                    continue
            else:
                self.totals.num_lines += 1
            self._see_row(block.number + index, row[0], row[1], kept)
            kept.index.append(index)
        self._look_for_triggers(block, rows)
        self._keep(block, kept)

    def _look_for_first(self, block: LineBlock) -> None:
        for index, line in enumerate(block.lines):
            try:
                row = read_line(line, block.number + index)
            except BadLine:
                continue
            if row is not None:
                self._find_form(row)
                return

    def _read_strictly(self, line: bytes, number: int) -> tuple[Said, RoleOrder] | None:
        """As jobs read it; what is wrong is found here."""
        try:
            row = read_line(line, number)
        except BadLine as error:
            self.totals.num_lines += 1
            self._findings.add(_BAD_LINES[error.kind], number, error.message)
            return None
        if row is None:
            return None
        self.totals.num_lines += 1
        if self.row_format is None:
            return None
        problem = problem_of(row, number, self.row_format)
        if problem is not None:
            other = other_form(row, self.row_format)
            text = problem.text.partition(f"Example {number}")[2].strip(" ,:").rstrip(".")
            if other is not None:
                self._findings.add(
                    "E105", number, f"a row of the form {other}, unlike the first one"
                )
            else:
                self._findings.add(problem.lint, number, text)
            return None
        said = said_in(row)
        turns = RoleOrder.of(said.roles)
        if turns is None:
            return None
        self._look_at_row(row, number)
        return said, turns

    def _look_at_row(self, row: Row, number: int) -> None:
        messages: Any = row.get("messages")
        if messages is None and "input" in row:
            messages = row["input"]["messages"]
            row = row["input"]
        if messages is not None and (row.get("tools") or row.get("functions") or _calls(messages)):
            look_at_calls(row, messages, number, self._findings)

    def _find_form(self, first_row: Row) -> None:
        self.method = self.method or method_of(first_row)
        found = format_of(first_row, "of this name", self.method)
        if isinstance(found, Problem):
            self.form_problem = found
        else:
            self.row_format = found
            # What a label may be is more than that it is a text.
            if self.method != "classification":
                self._quick = QuickReader(first_row)

    def _see_row(self, number: int, said: Said, turns: RoleOrder, kept: _Kept) -> None:
        texts, last = said.texts, turns.last
        answer = texts[last]
        stripped = answer.strip()
        if not turns.is_plain:
            look_at_roles(turns, said.roles, number, self._findings)
        if stripped is not answer or not answer:
            self._look_at_ends(number, said, last)
        if turns.early:
            self._look_at_early(number, said, turns)
        asked = texts[:last]
        if asked and len(stripped) >= _MIN_COPY_CHARS:
            self._look_for_copy(number, said, last, stripped)
        prompt = asked[0] if last == 1 else "\n".join(asked)
        if turns.system >= 0:
            self._count_system(texts[turns.system], number)
            if turns.system == 0 and last:
                prompt = asked[1] if last == 2 else "\n".join(asked[1:])
        place = self.sample.task.next_place()
        if place is not None:
            self.sample.put(place, number, prompt, stripped, has_calls=last in said.calls)
        kept.prompts.append(prompt)
        kept.prompt.append(hash((said.roles[:last], *map(_normal, asked))))
        if said.calls:
            self._keep_calls(said, stripped, kept)
        else:
            kept.answers.append(stripped)
            kept.answer.append(hash(_normal(stripped)))
        kept.learnt.append(_num_learnt(said, turns))
        kept.style.append(self.styles.of(stripped) if stripped[:1] in ("{", "[", "`") else 0)

    def _keep_calls(self, said: Said, answer: str, kept: _Kept) -> None:
        self.totals.num_with_calls += any(i not in said.unlearnt for i in said.calls)
        kept.answers.append(f"{answer}\n{said.call_text}")
        kept.answer.append(hash((_normal(answer), said.call_text)))

    def _look_for_copy(self, number: int, said: Said, last: int, answer: str) -> None:
        before = said.texts[last - 1]
        if len(before) >= _MIN_COPY_CHARS and answer.startswith(before.strip()):
            self._findings.add(
                "W510", number, "the answer begins with all of the prompt", said.paths[last]
            )

    def _look_at_ends(self, number: int, said: Said, last: int) -> None:
        answer = said.texts[last]
        if not answer.strip():
            if last not in said.unlearnt and last not in said.calls:
                self._findings.add("W112", number, "the answer is empty", said.paths[last])
        elif answer[-1] in " \t\u00a0" or (answer[-1].isspace() and self._is_chat(said)):
            self._findings.add(
                "W401",
                number,
                f"the answer ends in {answer[len(answer.rstrip()) :]!r}",
                said.paths[last],
            )

    def _is_chat(self, said: Said) -> bool:
        """In other rows a line break at the end may be the sign at which answers stop."""
        return said.paths[0] not in ("prompt", "text")

    def _look_at_early(self, number: int, said: Said, turns: RoleOrder) -> None:
        for index in turns.early:
            text = said.texts[index]
            if index in said.unlearnt or index in said.calls:
                continue
            if not text.strip():
                self._findings.add("W112", number, "an early answer is empty", said.paths[index])
            elif is_placeholder(text):
                self._findings.add(
                    "W515", number, f"the answer {text.strip()!r} is learnt", said.paths[index]
                )

    def _count_system(self, text: str, number: int) -> None:
        self.totals.num_with_system += 1
        seen = self.totals.systems.get(text)
        if seen is not None:
            seen[0] += 1
        elif len(self.totals.systems) < MAX_SYSTEMS:
            self.totals.systems[text] = [1, number]

    def _look_for_triggers(
        self, block: LineBlock, rows: Sequence[tuple[Said, RoleOrder] | None]
    ) -> None:
        data, starts = scanned(block, rows)
        is_ascii = data.isascii()
        hits: dict[int, list[TextRule]] = {}
        for rule in self._rules:
            if not rule.trigger.is_ascii and is_ascii:
                continue
            for index in set(rule.trigger.positions(data, starts)):
                hits.setdefault(index, []).append(rule)
        for index in sorted(hits):
            row = rows[index]
            if row is not None:
                self._apply(hits[index], row[0], block.number + index)

    def _apply(self, rules: Sequence[TextRule], said: Said, number: int) -> None:
        for rule in rules:
            for place, text in enumerate(said.texts):
                if rule.of_answers and said.roles[place] != "assistant":
                    continue
                if (problem := rule.look(text)) is not None:
                    self._findings.add(rule.code, number, problem, said.paths[place])
                    break
            else:
                for path, text in said.others:
                    if (problem := rule.look(text)) is not None:
                        self._findings.add(rule.code, number, problem, path)
                        break

    def _keep(self, block: LineBlock, kept: _Kept) -> None:
        num = len(kept.index)
        self.totals.num_learnt_chars += sum(kept.learnt)
        self.totals.num_rows += num
        self._columns.extend(
            {
                "number": [block.number + i for i in kept.index],
                "offset": [block.starts[i] for i in kept.index],
                "length": [len(block.lines[i]) for i in kept.index],
                "prompt": kept.prompt,
                "answer": kept.answer,
                "prompt_chars": list(map(len, kept.prompts)),
                "answer_chars": list(map(len, kept.answers)),
                "learnt_chars": kept.learnt,
                "style": kept.style,
            },
            num,
        )
        if self._sketches is not None and num:
            self._sketches.add(kept.prompts, kept.answers)


class _Kept:
    """Of the rows of a block."""

    def __init__(self) -> None:
        self.index: list[int] = []
        self.prompts: list[str] = []
        self.answers: list[str] = []
        self.prompt: list[int] = []
        self.answer: list[int] = []
        self.learnt: list[int] = []
        self.style: list[int] = []


def _normal(text: str) -> str:
    """Without differences that nobody means: spaces, and how accents are put on letters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    elif not ("  " in text or "\n" in text or "\t" in text):
        return text.strip()
    return " ".join(text.split())


def _num_learnt(said: Said, turns: RoleOrder) -> int:
    """Characters."""
    if not turns.early and not said.unlearnt:
        return len(said.texts[turns.last])
    learnt = (i for i in (*turns.early, turns.last) if i not in said.unlearnt)
    return sum(len(said.texts[i]) for i in learnt)


def _calls(messages: Sequence[Any]) -> bool:
    return any(
        m.get("tool_calls") or m.get("function_call") or m["role"] == "tool" for m in messages
    )
