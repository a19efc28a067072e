"""JSON in answers: read as it stands or out of its fence, and compared as values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from dataset.task_type import without_fence


class NotJson(Exception):
    """The text is none."""


def read(text: str) -> Any:
    """Raises NotJson. Stricter than json's: no NaN, no lone surrogates, bounded depth."""
    try:
        return orjson.loads(without_fence(text))
    except (ValueError, RecursionError):
        raise NotJson from None


def same(a: Any, b: Any) -> bool:
    """Whether they are the same value: order and spaces are free, 1 is 1.0, and neither is `true`."""
    if is_number(a) and is_number(b):
        return bool(a == b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def set_f1(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Of lists, whatever their order: values that are there twice count twice."""
    rest, num_common = list(wanted), 0
    for value in found:
        place = next((i for i, other in enumerate(rest) if same(value, other)), None)
        if place is not None:
            del rest[place]
            num_common += 1
    if not found and not wanted:
        return 1.0
    return 2 * num_common / (len(found) + len(wanted))
