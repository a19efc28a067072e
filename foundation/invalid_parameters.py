"""What pydantic found wrong with a request, in OpenAI's words. The api and the inference server share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InvalidRequest

MAX_SHOWN_CHARS = 200
"""Of a name or a value; the message shall be read."""
MAX_PROPERTIES = 1024
"""Of an object that is a parameter of a completion: as many biases as OpenAI takes, and more than others have."""


def explain(errors: Sequence[Any]) -> InvalidRequest:
    """The first of pydantic's errors in OpenAI's words."""
    error = errors[0]
    loc = list(error["loc"])
    if loc and loc[0] in ("body", "query", "path", "header"):
        loc = loc[1:]
    param = ".".join(shortened(str(part)) for part in loc)
    message, code = _words(param, error["type"], error)
    return InvalidRequest(message, param=param or None, code=code)


def refuse_large_objects(body: Mapping[str, Any]) -> None:
    """Raises `InvalidRequest` for a parameter with more properties than any has, whatever they are."""
    for param, value in body.items():
        if isinstance(value, dict) and len(value) > MAX_PROPERTIES:
            context = {"max_length": MAX_PROPERTIES}
            raise explain([{"loc": (param,), "type": "too_long", "input": value, "ctx": context}])


def shortened(text: str) -> str:
    """What somebody sent, as it may be told back."""
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."


_EXPECTED = {
    "string_type": "a string",
    "string_sub_type": "a string",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS = {
    "greater_than": ("below minimum", "> {gt}", "below_min_value"),
    "greater_than_equal": ("below minimum", ">= {ge}", "below_min_value"),
    "less_than": ("above maximum", "< {lt}", "above_max_value"),
    "less_than_equal": ("above maximum", "<= {le}", "above_max_value"),
}


def _words(param: str, kind: str, error: Any) -> tuple[str, str | None]:
    value, context = error.get("input"), error.get("ctx") or {}
    if kind == "missing":
        return f"Missing required parameter: '{param}'.", "missing_required_parameter"
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{param}'.", "unknown_parameter"
    if kind in _EXPECTED:
        return (
            f"Invalid type for '{param}': expected {_EXPECTED[kind]}, but got "
            f"{_kind_of(value)} instead.",
            "invalid_type",
        )
    if kind in _BOUNDS:
        where, bound, code = _BOUNDS[kind]
        number = "decimal" if isinstance(value, float) else "integer"
        return (
            f"Invalid '{param}': {number} {where} value. Expected a value "
            f"{bound.format(**context)}, but got {value} instead.",
            f"{number}_{code}",
        )
    if kind in ("string_too_long", "string_too_short"):
        side = "long" if kind == "string_too_long" else "short"
        edge = "maximum" if side == "long" else "minimum"
        return (
            f"Invalid '{param}': string too {side}. Expected a string with {edge} length "
            f"{context.get('max_length', context.get('min_length'))}, but got a string with "
            f"length {len(value)} instead.",
            "string_above_max_length" if side == "long" else "string_below_min_length",
        )
    if kind == "too_short":
        expected = f"an array with minimum length {context['min_length']}"
        got = f"an array with length {len(value)}" if value else "an empty array"
        return (
            f"Invalid '{param}': {'array too short' if value else 'empty array'}. Expected "
            f"{expected}, but got {got} instead.",
            "array_below_min_length" if value else "empty_array",
        )
    if kind == "too_long":
        return (
            f"Invalid '{param}': too many items. Expected at most {context['max_length']}, but got "
            f"{len(value)} instead.",
            "array_above_max_length" if isinstance(value, list) else "object_above_max_properties",
        )
    if kind == "literal_error":
        return (
            f"Invalid value: {shortened(repr(value))}. Supported values are: {context['expected']}.",
            ("invalid_value"),
        )
    return f"Invalid '{param}': {error['msg']}", "invalid_value"


def _kind_of(value: object) -> str:
    for kind, words in (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a decimal"),
        (str, "a string"),
        (list, "an array"),
        (dict, "an object"),
    ):
        if isinstance(value, kind):
            return words
    return "null"
