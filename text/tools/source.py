"""Text that arrives in pieces, for readers that are written as if all of it were there.

A reader is a generator: it yields where it needs more text. So what it makes of a text does not depend on where
the text was cut, and each character is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")

Reading = Generator[None, None, T]
"""Yields where more text is needed; returns what was read."""

SPACES = re.compile(r"\s*")


class Source:
    """The text that is there and not yet read."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._is_over = False
        self._kept: list[str] = []

    def push(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        """No more will come."""
        self._is_over = True

    def keep(self) -> None:
        """Remember what is read from here on, in the place of what was kept before."""
        self._kept = []

    def kept(self) -> str:
        """What was read since `keep`."""
        kept = "".join(self._kept)
        self._kept = []
        return kept

    def take(self, num_chars: int) -> str:
        """Of what is there."""
        taken = self._text[self._at : self._at + num_chars]
        self._at += len(taken)
        self._kept.append(taken)
        return taken

    def available(self, pattern: re.Pattern[str]) -> str:
        """Takes what `pattern` matches of what is there, which may be nothing."""
        found = pattern.match(self._text, self._at)
        return self.take(found.end() - self._at) if found else ""

    def peek(self) -> Reading[str]:
        """The next character, which stays; empty at the end."""
        while self._at >= len(self._text) and not self._is_over:
            yield
        return self._text[self._at : self._at + 1]

    def run(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Takes all that `pattern`, a set of characters that repeats, matches."""
        taken = [self.available(pattern)]
        while self._at >= len(self._text) and (yield from self.peek()):
            taken.append(self.available(pattern))
        return "".join(taken)

    def spaces(self) -> Reading[str]:
        return self.run(SPACES)

    def one_of(self, words: Sequence[str]) -> Reading[str]:
        """Takes the first of the `words` that comes next; empty if none does."""
        for word in words:
            if word and (yield from self._is_next(word)):
                return self.take(len(word))
        return ""

    def _is_next(self, word: str) -> Reading[bool]:
        while True:
            there = self._text[self._at : self._at + len(word)]
            if there == word:
                return True
            if self._is_over or not word.startswith(there):
                return False
            yield
