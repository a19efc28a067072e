"""How much memory the trainer has taken while a job was in it, on this machine's processor."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TOLD_FROM = 1.02
"""What is less than so many times what was told before is no news."""


class TrainerMemory:
    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/statm")
        self.peak_bytes = 0
        self._told_bytes = 0

    def look(self) -> None:
        try:
            resident_pages = int(self._file.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            # It has ended, or this system does not say.
            return
        self.peak_bytes = max(self.peak_bytes, resident_pages * _PAGE_BYTES)

    def grown(self) -> int | None:
        """The peak, if it has grown since it was told."""
        if self.peak_bytes <= _TOLD_FROM * self._told_bytes:
            return None
        self._told_bytes = self.peak_bytes
        return self.peak_bytes
