"""Answers that call tools: right when names and arguments are, as JSON; beside that names alone, and each argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import json_values
from .json_values import NotJson, same
from .measure import Json, Measure, ModelAnswer, RowScore


class CallsMeasure(Measure):
    primary = "names and arguments of the calls equal"

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        found, target = _calls(answer), _calls(wanted)
        if not target:
            # A row that wants no call is right when nothing is called.
            right = float(not found)
            return RowScore(right, {"right tools": right, "arguments are JSON": right})
        names = [name for name, _ in found] == [name for name, _ in target]
        readable = bool(found) and all(arguments is not None for _, arguments in found)
        also = {"right tools": float(names), "arguments are JSON": float(readable)}
        parts: dict[str, float] = {}
        for place, (name, arguments) in enumerate(target):
            there = found[place] if place < len(found) else ("", None)
            given = there[1] if there[0] == name and isinstance(there[1], dict) else {}
            for key, value in (arguments or {}).items():
                right = float(key in given and same(given[key], value))
                part = f"{name}.{key}"
                parts[part] = min(parts.get(part, 1.0), right)
        is_right = names and all(
            same(mine, theirs) for (_, mine), (_, theirs) in zip(found, target, strict=True)
        )
        return RowScore(float(is_right), also, parts)

    def together(self, pairs: Sequence[tuple[ModelAnswer, ModelAnswer]]) -> Json:
        none = sum(not answer.tool_calls for answer, wanted in pairs if wanted.tool_calls)
        return {"answers without a call": none} if none else {}


def _calls(reply: ModelAnswer) -> list[tuple[str, Any]]:
    """Name and arguments of each; None for arguments that are no JSON."""
    calls = []
    for call in reply.tool_calls:
        function = call.get("function") or {}
        try:
            arguments = json_values.read(function.get("arguments") or "{}")
        except NotJson:
            arguments = None
        calls.append((str(function.get("name")), arguments))
    return calls
