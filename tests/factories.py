"""Rows of training files, as plain functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]


def chat_row(user: str, assistant: str, system: str | None = None) -> Json:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages}


def colour_rows(count: int, colour: str = "blue") -> list[Json]:
    """Rows whose answer is always the same word, so that a tiny model learns it in a few steps."""
    return [chat_row(f"Question number {i}?", f"It is {colour}.") for i in range(count)]


def prompt_rows(count: int, completion: str = " sold") -> list[Json]:
    """The same as prompts and completions."""
    return [{"prompt": f"item {i} ->", "completion": completion} for i in range(count)]


def preference_rows(count: int, better: str = "blue", worse: str = "red") -> list[Json]:
    """The same question with two answers, of which the first is always the better one."""
    return [
        {
            "input": {"messages": [{"role": "user", "content": f"Question number {i}?"}]},
            "preferred_output": [{"role": "assistant", "content": f"It is {better}."}],
            "non_preferred_output": [{"role": "assistant", "content": f"It is {worse}."}],
        }
        for i in range(count)
    ]


def jsonl(rows: Iterable[Json] | Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
