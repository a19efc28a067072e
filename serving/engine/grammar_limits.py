"""What llguidance may spend on a grammar, and how it reads a tokenizer. Needs no torch, so that a grammar can be
tried in a small process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llguidance import LLParserLimits, LLTokenizer

MAX_REASON_CHARS = 400
MAX_LINE_CHARS = 80


def _limits(*, max_items_in_row: int) -> LLParserLimits:
    """By these a mask costs 10 ms, in the worst of cases 100, and what a grammar keeps of its lexer some tens of megabytes."""
    return LLParserLimits(
        initial_lexer_fuel=300_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=500_000,
        max_items_in_row=max_items_in_row,
        verbose_errors=False,
    )


LIMITS = _limits(max_items_in_row=2_000)
# Of a grammar that somebody wrote: an ambiguous one costs the square of its items at each token. In a grammar of
# JSON nothing is ambiguous, but an object of many optional properties has as many items.
WRITTEN_LIMITS = _limits(max_items_in_row=400)


def limits_of(kind: str, *, is_ours: bool) -> LLParserLimits:
    """Of a grammar that was made of a schema or of several, or that somebody wrote."""
    return LIMITS if kind == "json_schema" or is_ours else WRITTEN_LIMITS


def grammar_tokens(tokenizer_file: Path, vocab_size: int, stop_ids: Sequence[int]) -> LLTokenizer:
    """Raises `ValueError`."""
    definition = tokenizer_file.read_text(encoding="utf-8")
    return LLTokenizer(definition, n_vocab=vocab_size, eos_token=list(stop_ids))


def in_one_line(reason: str) -> str:
    """An error without what llguidance tells its developers."""
    reason = reason.partition("<state>")[0].replace("<non-verbose/>", "")
    lines = (" ".join(line.split()) for line in reason.splitlines())
    return _cut(" ".join(_cut(line, MAX_LINE_CHARS) for line in lines if line), MAX_REASON_CHARS)


def _cut(text: str, num_chars: int) -> str:
    return text if len(text) <= num_chars else f"{text[: num_chars - 3]}..."
