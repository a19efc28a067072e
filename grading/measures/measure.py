"""What the measures have in common: answers in, scores of a row out, and what only many rows together have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Json = dict[str, Any]


@dataclass(frozen=True)
class ModelAnswer:
    """What a model wrote, or what a row wants written."""

    text: str
    tool_calls: Sequence[Json] = ()
    """As in chat completions: `{"function": {"name", "arguments"}}`."""


@dataclass(frozen=True)
class RowScore:
    """Of one row, between 0 and 1."""

    primary: float
    also: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    """Of what the rows consist of: fields, classes, arguments. A family of its own when it comes to tests."""


class Measure(ABC):
    primary: ClassVar[str]
    """What is measured, in plain words."""

    @abstractmethod
    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        """Of one row."""

    def together(self, pairs: Sequence[tuple[ModelAnswer, ModelAnswer]]) -> Json:
        """What is known of all rows only; of answers and what was wanted."""
        del pairs
        return {}
