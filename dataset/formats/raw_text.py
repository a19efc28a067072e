"""Rows of raw text, a whole document each: `{"text": ...}`."""

from __future__ import annotations

from collections.abc import Iterator

from text.chat_template import ChatTemplate, TokenizedExample

from .row_format import Problem, Row, extra, no_text, wrong_keys

_KEYS = frozenset({"text"})


def claims(first_row: Row) -> bool:
    return "text" in first_row


def problems(row: Row) -> Iterator[Problem]:
    if "text" not in row:
        yield wrong_keys(" is missing key 'text'. Every row of raw text is {\"text\": ...}.")
    elif not isinstance(row["text"], str):
        yield no_text("text", row["text"])
    yield from extra(row, _KEYS)


def tokenize(row: Row, template: ChatTemplate) -> list[TokenizedExample]:
    return [template.tokenize_document(row["text"])]
