"""Rows of which nothing is to be said, and small files that are linted."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from dataset.lint.catalogue import CODES
from dataset.lint.linter import LintOptions, lint
from dataset.lint.report import LintReport
from tests.factories import jsonl

_WORDS = [
    "river",
    "stone",
    "garden",
    "letter",
    "window",
    "bread",
    "winter",
    "teacher",
    "bottle",
    "market",
    "horse",
    "candle",
    "forest",
    "mirror",
    "ladder",
    "island",
    "copper",
    "button",
    "castle",
    "feather",
    "engine",
    "pencil",
    "orange",
    "violin",
    "harbour",
    "blanket",
    "hammer",
    "sugar",
    "tunnel",
    "pocket",
]


def sentence(seed: int, num_words: int = 12) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=num_words)).capitalize() + "."


def chat(seed: int, *, answer: str | None = None, prompt: str | None = None) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": sentence(2 * seed) if prompt is None else prompt},
            {"role": "assistant", "content": sentence(2 * seed + 1) if answer is None else answer},
        ]
    }


def chats(num: int = 100) -> list[dict[str, Any]]:
    return [chat(seed) for seed in range(num)]


def said(*messages: tuple[str, str] | dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": [
            m if isinstance(m, dict) else {"role": m[0], "content": m[1]} for m in messages
        ]
    }


def linted(
    content: bytes | list[Any],
    validation: bytes | list[Any] | None = None,
    *,
    name: str = "rows.jsonl",
    **options: Any,
) -> LintReport:
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder) / name, Path(folder) / "validation.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else jsonl(content))
        if validation is not None:
            other.write_bytes(validation if isinstance(validation, bytes) else jsonl(validation))
        return lint(path, other if validation is not None else None, LintOptions(**options))


def codes(report: LintReport) -> set[str]:
    """But for figures."""
    found = {code for file in report.files for code in file.counts}
    return {code for code in found if CODES[code].severity != "info" or code == "I512"}


def lines(report: LintReport, code: str) -> list[int | None]:
    return [f.line for file in report.files for f in file.findings if f.code == code]


def text(report: LintReport) -> str:
    return "\n".join(line for file in report.files for line in file.lines())


def dumped(row: Any) -> bytes:
    return json.dumps(row).encode()
