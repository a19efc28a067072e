"""Training files are looked at while they are uploaded: every line must be a JSON object, or a .txt file text.

Whether the objects are good examples is checked later, when a job validates its files.
"""

from __future__ import annotations

import json

from foundation.documents import BadDocument, RowReader
from foundation.errors import InvalidRequest
from foundation.jsonl import BadLine, LineReader

RULE = "Expected file to have JSONL format, where every line is a valid JSON dictionary."
_SHOWN_BYTES = 20


class LineCheck:
    """Takes the file in chunks. `problem` is the first thing wrong; nothing is read after it."""

    def __init__(self, reader: RowReader | None = None) -> None:
        self._reader = reader or LineReader()
        self._num_rows = 0
        self._beginning = b""
        self.problem: InvalidRequest | None = None
        self.is_wanted = True
        """False once it is known that the file is not for training."""

    def feed(self, data: bytes) -> None:
        if len(self._beginning) < _SHOWN_BYTES:
            self._beginning += data[:_SHOWN_BYTES]
        self._read(data, is_last=False)

    def finish(self) -> None:
        """The file is complete."""
        self._read(b"", is_last=True)
        if self.problem is None and self._num_rows == 0:
            self.problem = _problem("The file is empty: it holds no line")

    def _read(self, data: bytes, *, is_last: bool) -> None:
        if self.problem is not None or not self.is_wanted:
            return
        try:
            lines = self._reader.close() if is_last else self._reader.feed(data)
            self._num_rows += sum(1 for _ in lines)
        except BadDocument as bad:
            self.problem = InvalidRequest(f"{bad}.", param="file", code="invalid_file_format")
        except BadLine as bad:
            self.problem = _problem(
                f"Line {bad.line_number} is not: {bad.message}", self._hint(bad)
            )

    def _hint(self, bad: BadLine) -> str:
        """What those did who get the first line wrong: most of them sent another format."""
        if bad.line_number > 1:
            return ""
        start = self._beginning.partition(b"\n")[0].decode("utf-8", "replace").strip()
        advice = ""
        if start.startswith("["):
            advice = "; write one object a line, without the brackets and commas of an array"
        elif start in ("{", '{"messages": ['):
            advice = "; write each object on a line of its own, without line breaks inside"
        # json.dumps, because a control character must not reach somebody's terminal.
        return f" (HINT: line starts with: {json.dumps(start[:6])}...{advice})"


def _problem(text: str, hint: str = "") -> InvalidRequest:
    return InvalidRequest(f"{RULE} {text}{hint}.", param="file", code="invalid_jsonl")
