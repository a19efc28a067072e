"""Comparing two strings. The results are 1.0 and 0.0."""

from __future__ import annotations

from typing import Literal

Operation = Literal["eq", "ne", "like", "ilike"]


def reward(operation: Operation, text: str, reference: str) -> float:
    """`like` asks whether the reference is in the text, `ilike` whether it is, whatever the case."""
    match operation:
        case "eq":
            return float(text == reference)
        case "ne":
            return float(text != reference)
        case "like":
            return float(reference in text)
        case "ilike":
            return float(reference.casefold() in text.casefold())
