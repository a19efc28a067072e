"""What a reply consists of, as it becomes known: thoughts, text, calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ContentDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The beginning of the reply's call number `index`, with a name, or more of its arguments."""

    index: int
    name: str | None
    arguments: str


ReplyDelta = ContentDelta | ReasoningDelta | CallDelta


class Calls:
    """The calls of one reply, told to `out` as they are read."""

    def __init__(
        self, offered: Mapping[str, Any], out: list[ReplyDelta], *, is_parallel: bool
    ) -> None:
        """`offered`: names of tools, with the schemas of their parameters."""
        self._offered = offered
        self._out = out
        self._is_parallel = is_parallel
        self.num_begun = 0

    @property
    def is_full(self) -> bool:
        """No further call may come."""
        return self.num_begun > 0 and not self._is_parallel

    def offers(self, name: str) -> bool:
        return name in self._offered

    def properties(self, name: str) -> Mapping[str, Any]:
        """The schemas of a tool's arguments, as far as they are known."""
        schema = self._offered[name]
        found = schema.get("properties") if isinstance(schema, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def begin(self, name: str) -> None:
        self._out.append(CallDelta(self.num_begun, name, ""))
        self.num_begun += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that was begun last."""
        if text:
            self._out.append(CallDelta(self.num_begun - 1, None, text))
