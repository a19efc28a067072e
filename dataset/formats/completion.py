"""Rows of a prompt and what is to be written behind it: `{"prompt": ..., "completion": ...}`."""

from __future__ import annotations

from collections.abc import Iterator

from text.chat_template import ChatTemplate, TokenizedExample

from .row_format import Problem, Row, extra, missing, no_text

_KEYS = frozenset({"prompt", "completion"})


def claims(first_row: Row) -> bool:
    # With two answers to its prompt it is a preference of another tool.
    is_preference = {"chosen", "rejected"} <= first_row.keys()
    return bool(first_row.keys() & _KEYS) and not is_preference


def problems(row: Row) -> Iterator[Problem]:
    for key in ("prompt", "completion"):
        if key not in row:
            yield missing(key)
        elif not isinstance(row[key], str):
            yield no_text(key, row[key])
    yield from extra(row, _KEYS)


def tokenize(row: Row, template: ChatTemplate) -> list[TokenizedExample]:
    return [template.tokenize_completion(row["prompt"], row["completion"])]
