"""Strengths: how much of a LoRA model is applied, as the end of its name: `ft:…@0.75`.

The gateway tells inference servers in the same way, behind an artifact's id. A server that does not know strengths
finds no model of that name, and cannot answer with the whole of one.
"""

from __future__ import annotations

import re

MAX_STRENGTH = 1.5
NUM_DECIMALS = 2
"""Strengths are rounded to as many, so there are 151 of a model."""
SEPARATOR = "@"

_NUMBER = re.compile(r"\d{1,9}(\.\d{0,20})?|\.\d{1,20}", re.ASCII)


def split(name: str) -> tuple[str, str | None]:
    """What stands before the last `@` and behind it; None where there is none."""
    plain, separator, text = name.rpartition(SEPARATOR)
    return (plain, text) if separator else (name, None)


def parse(text: str) -> float:
    """Raises ValueError for what is no strength."""
    if not _NUMBER.fullmatch(text) or float(text) > MAX_STRENGTH:
        raise ValueError(f"{text!r} is no number from 0 to {MAX_STRENGTH}")
    return round(float(text), NUM_DECIMALS)


def name_at(name: str, strength: float) -> str:
    """At full strength it is the name alone."""
    return name if strength == 1 else f"{name}{SEPARATOR}{strength:g}"
