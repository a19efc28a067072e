"""Validates files of a few rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataset.tokenized import Statistics
from dataset.validation import InvalidFile, Role, validate
from text.chat_template import ChatTemplate


@dataclass
class Checker:
    folder: Path
    template: ChatTemplate

    def check(self, content: bytes, role: Role = "training") -> Statistics:
        return self.check_chunks((content[i : i + 100] for i in range(0, len(content), 100)), role)

    def check_chunks(self, chunks: Iterable[bytes], role: Role = "training") -> Statistics:
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "examples"
        return validate(
            chunks,
            folder,
            self.template,
            max_seq_len=2048,
            role=role,
            file_id="file-X",
            method="supervised",
        )

    def refusal(self, content: bytes, role: Role = "training") -> InvalidFile:
        with pytest.raises(InvalidFile) as caught:
            self.check(content, role)
        return caught.value
