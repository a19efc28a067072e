"""Keeps special tokens that users type apart from those that a chat template writes.

A template mixes user text into its own, and afterwards nobody can tell who wrote `<|im_end|>`. So
before the template runs, single characters of user text are swapped for private ones wherever the text
could be part of a special token, and swapped back once the template's own special tokens are found.
Lengths and white space do not change, and text that spells no special token passes untouched, so
templates that look at the content still see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# The last private-use plane of Unicode: assigned to nobody, and absent from real text.
PRIVATE_CODE_POINTS = range(0x100000, 0x10FFFE)
# Structural words that templates compare with; validated or harmless, so they stay readable.
STRUCTURAL_KEYS = frozenset({"role", "type"})


class Disguise:
    """Hides what could be special tokens in user values. Strings must be used whole or trimmed by the template."""

    def __init__(self, values: Any, special_tokens: Mapping[str, int], *, avoid: str) -> None:
        """`values`: everything that will be hidden; `avoid`: more text whose characters are taken."""
        self._special = sorted(special_tokens)
        self._rests = tuple({token[k:] for token in self._special for k in range(1, len(token))})
        taken = {c for text in (*_strings(values), avoid) for c in text if ord(c) >= 0x100000}
        free = (chr(c) for c in PRIVATE_CODE_POINTS if chr(c) not in taken)
        letters = sorted({c for token in self._special for c in token})
        self._hidden = dict(zip(letters, free, strict=False))
        self._revealed = str.maketrans({h: c for c, h in self._hidden.items()})
        self._firsts = {token[0] for token in self._special}

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
        positions = set(self._starts(text))
        lead = len(text) - len(text.lstrip())
        if lead < len(text) and self._continues(text.strip()):
            positions.add(lead)
        if not positions:
            return text
        return "".join(self._hidden[c] if i in positions else c for i, c in enumerate(text))

    def _starts(self, text: str) -> Iterator[int]:
        """Where a special token starts, or could start and go on behind the text."""
        tail = text.rstrip()
        for position, char in enumerate(tail):
            if char in self._firsts and any(
                text.startswith(token, position) or token.startswith(tail[position:])
                for token in self._special
            ):
                yield position

    def _continues(self, text: str) -> bool:
        """Whether `text` could be the rest, or the middle, of a token that starts before it."""
        return text.startswith(self._rests) or any(text in token for token in self._special)


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
