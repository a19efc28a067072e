"""`{{ item.answer }}` in a grader's texts. Paths only: nothing of a template is ever evaluated.

A path begins with `item` or `sample` and goes on with `.key` or `[0]`; a list takes its index after a dot, too.
What is not a string is written as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAMESPACES = ("item", "sample")
MAX_RENDERED_CHARS = 1_000_000

_PLACE = re.compile(r"\{\{([^{}]*)\}\}")
_STEP = re.compile(r"\.\s*([\w$-]+)\s*|\[\s*(\d{1,9})\s*\]\s*")
_ROOT = re.compile(r"\s*(\w+)\s*")


class InvalidVariable(Exception):
    """A template names something that is not there, or is no path at all."""


class TooLong(Exception):
    """The text with everything put in would be longer than MAX_RENDERED_CHARS."""


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text with its variables put in. What they hold is not looked at for variables again.

    Raises InvalidVariable and TooLong.
    """
    pieces: list[str] = []
    num_chars = end = 0
    for match in _PLACE.finditer(template):
        for piece in (template[end : match.start()], _written(_find(match[1], variables))):
            pieces.append(piece)
            num_chars += len(piece)
        if num_chars > MAX_RENDERED_CHARS:
            raise TooLong
        end = match.end()
    pieces.append(template[end:])
    if num_chars + len(pieces[-1]) > MAX_RENDERED_CHARS:
        raise TooLong
    return "".join(pieces)


def check(template: str) -> None:
    """Raises InvalidVariable for what can be no variable, whatever the item may hold."""
    for path in paths(template):
        if path[0] not in NAMESPACES or len(path) < 2:
            raise InvalidVariable(
                f"'{'.'.join(map(str, path))}' is neither a variable of 'item' nor of 'sample'"
            )


def paths(template: str) -> Iterator[list[str | int]]:
    """The path of each variable. Raises InvalidVariable for one that is none."""
    for match in _PLACE.finditer(template):
        yield _path(match[1])


def _path(text: str) -> list[str | int]:
    root = _ROOT.match(text)
    if root is None:
        raise InvalidVariable(f"'{text.strip()[:80]}' is no variable")
    path: list[str | int] = [root[1]]
    at = root.end()
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise InvalidVariable(f"'{text.strip()[:80]}' is no variable")
        path.append(int(step[2]) if step[1] is None else step[1])
        at = step.end()
    return path


def _find(text: str, variables: Mapping[str, Any]) -> object:
    value: Any = variables
    for step in _path(text):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and (index := _index(step)) < len(value):
            value = value[index]
        else:
            raise InvalidVariable(f"'{text.strip()[:80]}' is not there")
    return value


def _index(step: str | int) -> int:
    """An index of a list; past every end for what is no index."""
    if isinstance(step, int):
        return step
    return int(step) if step.isdecimal() and len(step) < 10 else 2**62


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
