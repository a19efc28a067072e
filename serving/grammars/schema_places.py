"""Where schemas stand in a JSON schema, and which of them is to blame for what llguidance says of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

MAX_FIND_S = 1.0

# Where schemas stand within a schema: by themselves, in a list, under names.
SINGLE = frozenset(
    {"items", "additionalProperties", "additionalItems", "not", "if", "then", "else"}
    | {"contains", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contentSchema"}
)
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})

Path = tuple[str, ...]
Schema = dict[str, Any]
# What holds a schema, under which key, and the way there.
Place = tuple[Any, Any, Path]


class SchemaRefused(Exception):
    def __init__(self, path: Path, keyword: str | None, why: str) -> None:
        named = (
            "the schema is not permitted" if keyword is None else f"'{keyword}' is not permitted"
        )
        super().__init__(f"In context={path}, {named}: {why}.")


def walk(schema: Schema, max_depth: int) -> Iterator[tuple[Path, Any]]:
    """All schemas within the schema, each after those around it. Raises `SchemaRefused` where they are nested too deep."""
    stack: list[tuple[Path, Any, int]] = [((), schema, 0)]
    while stack:
        path, node, depth = stack.pop()
        yield path, node
        if isinstance(node, dict):
            if depth >= max_depth:
                raise SchemaRefused(path, None, f"schemas are nested deeper than {max_depth}")
            below = [(path + names, holder[key], depth + 1) for holder, key, names in places(node)]
            stack += reversed(below)


def places(node: Schema) -> list[Place]:
    """Where schemas stand in a schema."""
    found: list[Place] = []
    for keyword, value in node.items():
        if keyword in NAMED and isinstance(value, dict):
            found += [(value, name, (keyword, name)) for name in value]
        elif keyword in LISTS and isinstance(value, list):
            found += [(value, i, (keyword, str(i))) for i in range(len(value))]
        elif keyword in SINGLE:
            found.append((node, keyword, (keyword,)))
    return found


def find(schema: Schema, refusal: Callable[[Schema], str], reason: str) -> SchemaRefused:
    """Where in the schema that stands for which it was refused.

    `refusal` says why a schema is refused, or nothing where it is not. `schema` is changed on the way.
    """
    until_s = time.monotonic() + MAX_FIND_S

    told = "its alternatives may fit at once; use 'anyOf'" if "coerce_one_of" in reason else reason

    def is_still_refused() -> bool:
        return time.monotonic() < until_s and refusal(schema) == reason

    path: Path = ()
    node = schema
    while (place := _to_blame(places(node), is_still_refused)) is not None:
        holder, key, names = place
        path, node = path + names, holder[key]
    # Without its type, a schema that nothing fits is fitted by other things.
    for keyword in sorted(node, key=lambda keyword: keyword == "type"):
        value = node.pop(keyword)
        is_mended = time.monotonic() < until_s and refusal(schema) != reason
        node[keyword] = value
        if is_mended:
            return SchemaRefused(path, keyword, told)
    return SchemaRefused(path, None, told)


def _to_blame(among: list[Place], is_still_refused: Callable[[], bool]) -> Place | None:
    """The one schema among these for which the whole is refused. It alone stays in its place then."""
    values = [holder[key] for holder, key, _ in among]

    def put(begin: int, end: int, *, aside: bool) -> None:
        for (holder, key, _), value in zip(among[begin:end], values[begin:end], strict=True):
            holder[key] = {} if aside else value

    put(0, len(among), aside=True)
    begin, end = 0, len(among)
    if among and not is_still_refused():
        # Of those that are aside, half is put back, again and again.
        while end - begin > 1:
            middle = (begin + end) // 2
            put(begin, middle, aside=False)
            if is_still_refused():
                end = middle
            else:
                put(begin, middle, aside=True)
                begin = middle
        put(begin, end, aside=False)
        if isinstance(values[begin], dict) and is_still_refused():
            return among[begin]
    put(0, len(among), aside=False)
    return None
