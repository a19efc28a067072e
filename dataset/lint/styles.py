"""How JSON answers are written: their keys, the order of these, spacing, and whether a Markdown fence is around them."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from dataset.task_type import without_fence

MAX_STYLES = 10_000
OTHER = 0
"""What is no JSON, or one more than are told apart."""


@dataclass(frozen=True, slots=True)
class Style:
    keys: tuple[str, ...]
    """In their order; of a list none."""
    spacing: str
    is_fenced: bool


class Styles:
    """Numbers them from 1."""

    def __init__(self) -> None:
        self._numbers: dict[Style, int] = {}
        self.all: list[Style] = []

    def of(self, answer: str) -> int:
        inner = without_fence(answer) if answer[0] == "`" else answer
        if inner[:1] not in ("{", "["):
            return OTHER
        try:
            value = orjson.loads(inner)
        except orjson.JSONDecodeError:
            return OTHER
        keys = tuple(value) if isinstance(value, dict) else ()
        style = Style(keys, _spacing(inner), inner is not answer)
        number = self._numbers.get(style)
        if number is None:
            if len(self.all) == MAX_STYLES or len(keys) > 100:
                return OTHER
            self.all.append(style)
            number = self._numbers[style] = len(self.all)
        return number


def _spacing(text: str) -> str:
    """Told by what comes behind the first colon and in front of the first key."""
    if "\n" in text:
        return "lines"
    place = text.find('":')
    return "spaces" if place >= 0 and text[place + 2 : place + 3] == " " else "none"
