"""Numbers of a body within bounds. Most of them the server chooses where they are "auto", as they are by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

MAX_WHOLE = 2**31 - 1


def auto_or_whole(maximum: int = MAX_WHOLE, *, minimum: int = 1) -> BeforeValidator:
    """ "auto" or `minimum` to `maximum`. Null means "auto": old clients send it."""
    expected = f"an integer between {minimum} and {maximum}"

    def check(value: Any) -> object:
        if value is None or value == "auto":
            return "auto"
        if is_number(value) and minimum <= value <= maximum and value == int(value):
            return int(value)
        raise _not_auto(value, expected)

    return BeforeValidator(check)


def auto_or_above(minimum: float, maximum: float) -> BeforeValidator:
    """ "auto" or a number above `minimum`, `maximum` at most."""
    expected = f"a number above {minimum:g}, {maximum:g} at most"

    def check(value: Any) -> object:
        if value is None or value == "auto":
            return "auto"
        if is_number(value) and minimum < value <= maximum:
            return value
        raise _not_auto(value, expected)

    return BeforeValidator(check)


def auto_or(expected: str, fits: Callable[[Any], bool]) -> BeforeValidator:
    """ "auto" or what fits."""

    def check(value: Any) -> object:
        if value is None or value == "auto":
            return "auto"
        if fits(value):
            return value
        raise _not_auto(value, expected)

    return BeforeValidator(check)


def number(
    minimum: float, maximum: float, *, is_whole: bool = False, is_above: bool = False
) -> BeforeValidator:
    """`minimum` to `maximum`, never "auto"; `is_above`: and not `minimum` itself."""
    kind = "an integer" if is_whole else "a number"
    expected = (
        f"{kind} above {minimum:g}, {maximum:g} at most"
        if is_above
        else f"{kind} between {minimum:g} and {maximum:,.10g}".replace(",", "")
    )

    def check(value: Any) -> object:
        if is_number(value) and minimum <= value <= maximum:
            if is_whole and value == int(value):
                return int(value)
            if not is_whole and not (is_above and value == minimum):
                return float(value)
        raise _refused(value, expected)

    return BeforeValidator(check)


def is_number(value: object) -> TypeGuard[int | float]:
    """NaN and the infinities are numbers here: they lie within no bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _not_auto(value: object, expected: str) -> PydanticCustomError:
    return _refused(value, f"'auto' or {expected}")


def _refused(value: object, expected: str) -> PydanticCustomError:
    return PydanticCustomError(
        "hyperparameter",
        "expected {expected}, but got {got} instead.",
        {"expected": expected, "got": repr(value)[:50]},
    )
