"""Answers that are JSON: right when all of it is; beside that valid, with the right keys, and field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

from dataset.task_type import JsonField, without_fence

from . import json_values
from .json_values import NotJson, is_number, same
from .measure import Json, Measure, ModelAnswer, RowScore

TOLERANCE = 1e-6
"""Relative: numbers that are as close are the same one, written in another way."""
_MISSING = object()
_WHOLE = "value"
"""The name of what is not an object: it has one part."""


class JsonMeasure(Measure):
    primary = "all fields equal"

    def __init__(self, fields: Mapping[str, JsonField]) -> None:
        """Of the training rows: what their fields hold decides how each is measured."""
        self._fields = fields

    def score(self, answer: ModelAnswer, wanted: ModelAnswer) -> RowScore:
        try:
            target = _fields(json_values.read(wanted.text))
        except NotJson:
            # One of the few rows that want something else.
            return RowScore(float(answer.text.strip() == wanted.text.strip()))
        try:
            value = json_values.read(answer.text)
        except NotJson:
            parts = dict.fromkeys(target, 0.0)
            return RowScore(0.0, {"valid JSON": 0.0, "right keys": 0.0}, parts)
        found = _fields(value)
        also = {"valid JSON": 1.0, "right keys": float(found.keys() == target.keys())}
        parts = {
            name: self._part(name, found.get(name, _MISSING), part) for name, part in target.items()
        }
        return RowScore(float(same(found, target)), also, parts)

    def together(self, pairs: Sequence[tuple[ModelAnswer, ModelAnswer]]) -> Json:
        fenced = sum(without_fence(answer.text) != answer.text for answer, _ in pairs)
        return {"answers in a fence": fenced} if fenced else {}

    def _part(self, name: str, found: Any, wanted: Any) -> float:
        kind = self._fields[name].kind if name in self._fields else "closed"
        if kind == "number" and is_number(found) and is_number(wanted):
            return float(abs(found - wanted) <= TOLERANCE * max(abs(found), abs(wanted)))
        if kind == "list" and isinstance(found, list) and isinstance(wanted, list):
            return json_values.set_f1(found, wanted)
        if kind == "text" and isinstance(found, str) and isinstance(wanted, str):
            return Levenshtein.normalized_similarity(found, wanted)
        return float(found is not _MISSING and same(found, wanted))


def _fields(value: Any) -> Json:
    return value if isinstance(value, dict) else {_WHOLE: value}
