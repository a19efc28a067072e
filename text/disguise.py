"""Keeps special tokens that users type apart from those that a chat template writes.

A template mixes user text into its own, and afterwards nobody can tell who wrote `<|im_end|>`. So
before the template runs, single characters of user text are swapped for private ones wherever the text
could be part of a special token, and swapped back once the template's own special tokens are found.
Lengths and white space do not change, and text that spells no special token passes untouched, so
templates that look at the content still see it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

# The last private-use plane of Unicode: assigned to nobody, and absent from real text.
PRIVATE_CODE_POINTS = range(0x100000, 0x10FFFE)
_PRIVATE = re.compile("[\U00100000-\U0010ffff]")
# Structural words that templates compare with; validated or harmless, so they stay readable.
STRUCTURAL_KEYS = frozenset({"role", "type"})


class OutOfCharacters(ValueError):
    """The text leaves no private characters to hide anything behind."""


class Disguise:
    """Hides what could be special tokens in user values. Strings must be used whole or trimmed by the template."""

    def __init__(self, values: Any, special_tokens: Mapping[str, int], *, avoid: str) -> None:
        """`values`: everything that will be hidden; `avoid`: more text whose characters are taken."""
        self._tokens = _spellings(frozenset(special_tokens))
        taken = {c for text in (*_strings(values), avoid) for c in _PRIVATE.findall(text)}
        free = (chr(c) for c in PRIVATE_CODE_POINTS if chr(c) not in taken)
        self._hidden = dict(zip(self._tokens.letters, free, strict=False))
        if len(self._hidden) < len(self._tokens.letters):
            raise OutOfCharacters("the text uses every private character of Unicode's last plane")
        self._revealed = str.maketrans({h: c for c, h in self._hidden.items()})
        self.mark = next(free, "")
        """A character that is in none of the values, nor in their disguise; empty if there is none left."""

    def hide(self, value: Any) -> Any:
        """A copy of `value` (strings, lists, dicts) with its strings disguised."""
        if isinstance(value, str):
            return self._hide_text(value)
        if isinstance(value, list):
            return [self.hide(v) for v in value]
        if isinstance(value, dict):
            return {self._hide_key(k): self._hide_entry(k, v) for k, v in value.items()}
        return value

    def reveal(self, text: str) -> str:
        """Rendered text with the user's own characters back."""
        return text.translate(self._revealed)

    def _hide_entry(self, key: str, value: Any) -> Any:
        is_word = key in STRUCTURAL_KEYS and isinstance(value, str) and value.isidentifier()
        return value if is_word else self.hide(value)

    def _hide_key(self, key: str) -> str:
        # A key such as "name" may well be part of a token like <repo_name>; templates look it up.
        return key if key.isidentifier() else self._hide_text(key)

    def _hide_text(self, text: str) -> str:
        positions = set(self._tokens.starts(text))
        lead = len(text) - len(text.lstrip())
        if lead < len(text) and self._tokens.continues(text.strip()):
            positions.add(lead)
        if not positions:
            return text
        parts: list[str] = []
        end = 0
        for position in sorted(positions):
            parts += text[end:position], self._hidden[text[position]]
            end = position + 1
        return "".join([*parts, text[end:]])


class _Spellings:
    """Finds special tokens, and what could be parts of them, in time that is linear in the text."""

    def __init__(self, tokens: frozenset[str]) -> None:
        self._tokens = sorted(tokens)
        self.letters = sorted({c for token in tokens for c in token})
        self._max_chars = max(map(len, tokens), default=0)
        self._rests = {token[k:] for token in tokens for k in range(1, len(token))}
        self._beginnings = {token[:k] for token in tokens for k in range(1, len(token))}
        # Looks ahead, because a token may start within another.
        self._pattern = re.compile(f"(?={_any_of(tokens)})") if tokens else None

    def starts(self, text: str) -> Iterator[int]:
        """Where a special token starts, or could start and go on behind the text."""
        end = len(text.rstrip())
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() < end:
                yield match.start()
        for position in range(max(0, end - self._max_chars), end):
            if text[position:end] in self._beginnings:
                yield position

    def continues(self, text: str) -> bool:
        """Whether `text` could be the rest, or the middle, of a token that starts before it."""
        if any(text[:length] in self._rests for length in range(1, self._max_chars)):
            return True
        return len(text) < self._max_chars and any(text in token for token in self._tokens)


# A base has one set of special tokens, and every conversation asks for it.
_spellings = lru_cache(maxsize=16)(_Spellings)


def _any_of(words: Collection[str]) -> str:
    """A regular expression for the words in which no beginning is tried twice."""
    by_first: dict[str, set[str]] = {}
    for word in words:
        if word:
            by_first.setdefault(word[0], set()).add(word[1:])
    branches = [re.escape(first) + _any_of(rest) for first, rest in sorted(by_first.items())]
    if not branches:
        return ""
    if "" in words:
        return f"(?:{'|'.join(branches)})?"
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _strings(key)
            yield from _strings(entry)
