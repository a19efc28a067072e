"""What a base makes of the rows: tokens, what is cut at its context, and whether answers end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset.formats.row_format import RowFormat, problem_of
from dataset.windows import cut
from foundation.jsonl import BadLine, read_line
from text.chat_template import ChatTemplate, TokenizedExample
from text.messages import ChatTemplateError

from .findings import LintFindings
from .reading import blocks

MAX_TOKENISED_BYTES = 16 * 1024 * 1024
"""Of a larger file rows are drawn evenly, and what is told of its tokens is an estimate."""


def look_at_tokens(
    path: Path,
    row_format: RowFormat,
    template: ChatTemplate,
    max_seq_len: int,
    findings: LintFindings,
    step: Callable[[], None],
) -> None:
    every = max(path.stat().st_size // MAX_TOKENISED_BYTES, 0) + 1
    lengths: list[int] = []
    num_learnt = num_kept = 0
    ends = [0, 0]
    for block in blocks(path):
        for index, line in enumerate(block.lines):
            number = block.number + index
            if number % every and every > 1:
                continue
            sequences = _tokenized(line, number, row_format, template, findings)
            if not sequences:
                continue
            first = sequences[0]
            lengths.append(sum(len(each.input_ids) for each in sequences))
            learnt = cut(first, max_seq_len).num_supervised_tokens
            kept = min(len(first.input_ids), max_seq_len)
            num_learnt += learnt
            num_kept += kept
            _look_at_cut(first, number, learnt, max_seq_len, findings)
            if first.input_ids and first.weights[-1] and first.num_bytes is None:
                ends[first.input_ids[-1] in template.tokenizer.eos_ids] += 1
        step()
    if not lengths:
        return
    about = f"about {every} times " if every > 1 else ""
    findings.add_of_file(
        "I701",
        f"{about}{sum(lengths)} in {len(lengths)} rows; {np.median(lengths):.0f} in the median, {max(lengths)} at most",
    )
    if ends[0] > ends[1]:
        findings.add_of_file(
            "W306", f"of {sum(ends)} rows, {ends[0]}: a model that learns so does not stop"
        )
    findings.add_of_file(
        "I706",
        f"{about}{num_kept} tokens within a context of {max_seq_len}, of which {num_learnt} are learnt; times the epochs",
    )


def _look_at_cut(example: TokenizedExample, number: int, num_learnt: int, max_seq_len: int, findings: LintFindings) -> None:  # fmt: skip
    num = len(example.input_ids)
    # Windows of raw text lose nothing.
    if num <= max_seq_len or example.num_bytes is not None:
        return
    if not num_learnt:
        findings.add("W304", number, f"the {max_seq_len} tokens of the context are full before the answer, of {num} tokens in all")  # fmt: skip
    elif example.weights[-1]:
        findings.add("W303", number, f"{num} tokens, of which {max_seq_len} fit")


def _tokenized(
    line: bytes, number: int, row_format: RowFormat, template: ChatTemplate, findings: LintFindings
) -> list[TokenizedExample]:
    try:
        row = read_line(line, number)
    except BadLine:
        return []
    if row is None or problem_of(row, number, row_format) is not None:
        return []
    try:
        return list(row_format.tokenize(row, template))
    except ChatTemplateError as error:
        findings.add("E117", number, f"this base cannot learn from it: {error}")
        return []
