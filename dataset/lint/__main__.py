"""`python -m dataset.lint`: a process for one report, so that whoever asks for it is not held up.

Takes what is wanted as JSON from standard input, and writes the report as JSON to standard output.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from text.chat_template import ChatTemplate

from .linter import LintOptions, lint


def main() -> None:
    asked: dict[str, Any] = orjson.loads(sys.stdin.buffer.read())
    template = None
    if asked["base_path"] is not None:
        template = ChatTemplate.load(Path(asked["base_path"]), document_end=asked["document_end"])
    options = LintOptions(
        method=asked["method"], template=template, max_seq_len=asked["max_seq_len"] or 2048
    )
    validation = asked["validation"]
    report = lint(
        Path(asked["path"]),
        Path(validation) if validation is not None else None,
        options,
        filename=asked["filename"],
        validation_filename=asked["validation_filename"],
    )
    sys.stdout.buffer.write(orjson.dumps(report.to_json()))


if __name__ == "__main__":
    main()
