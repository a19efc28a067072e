"""JSON schemas: what of them a reply cannot be held to, and where in the schema that stands.

llguidance refuses what it cannot hold a reply to, but does not say where it found it; and some schemas that it takes
have no end. So the schema is walked through before, and once more after llguidance has refused it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

MAX_DEPTH = 64
"""Schemas within each other."""
MAX_SCHEMAS = 10_000
MAX_OPTIONAL = 1_000
"""Properties of an object that need not be there: each of them may come next."""
MAX_REFS = 1_000
MAX_ENUM = 10_000
"""Values, in all lists together."""
MAX_AT_LEAST = 65_536
"""Items, characters or properties that must be there: no reply has room for more."""
MAX_FOLLOW_S = 0.5
MAX_FIND_S = 1.0

# Where schemas stand within a schema: by themselves, in a list, under names.
SINGLE = frozenset(
    {"items", "additionalProperties", "additionalItems", "not", "if", "then", "else"}
    | {"contains", "propertyNames", "unevaluatedProperties", "unevaluatedItems", "contentSchema"}
)
LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
REFUSED = frozenset(
    {"not", "if", "then", "else", "dependentSchemas", "dependentRequired", "dependencies"}
    | {"propertyNames", "unevaluatedProperties", "unevaluatedItems", "uniqueItems"}
    | {"contains", "minContains", "maxContains"}
    | {"$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"}
)
# These say nothing when they have this value.
NO_OPS: dict[str, Any] = {
    "uniqueItems": False,
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
}
# References are followed from the root; the other is an instruction to llguidance.
DROPPED = frozenset({"$id", "x-guidance"})
KNOWN_FORMATS = frozenset(
    {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
)
# Of the others, which say something to people only, none of these.
OTHER_FORMATS = frozenset(
    {"idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template"}
    | {"json-pointer", "relative-json-pointer", "regex"}
)
AT_LEAST = ("minItems", "minLength", "minProperties")

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


def check(schema: Schema) -> None:
    """Raises `SchemaRefused` for the first thing that a reply cannot be held to; takes away what says nothing."""
    refs: list[tuple[Path, str]] = []
    num_enum = 0
    for number, (path, node) in enumerate(_walk(schema)):
        if number >= MAX_SCHEMAS:
            raise SchemaRefused((), None, f"it consists of more than {MAX_SCHEMAS} schemas")
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise SchemaRefused(path, None, "a schema is an object or a boolean")
        _clean(node)
        _check_keywords(node, path)
        values = node.get("enum")
        num_enum += len(values) if isinstance(values, list) else 0
        if num_enum > MAX_ENUM:
            raise SchemaRefused(path, "enum", f"there are more than {MAX_ENUM} values in all")
        if "$ref" in node:
            refs.append((path, node["$ref"]))
    if len(refs) > MAX_REFS:
        raise SchemaRefused(refs[-1][0], "$ref", f"there are more than {MAX_REFS} references")
    _check_end(schema, {(path, ref): _target(schema, path, ref) for path, ref in refs})


def find(schema: Schema, refusal: Callable[[Schema], str], reason: str) -> SchemaRefused:
    """Where in the schema that stands for which it was refused.

    `refusal` says why a schema is refused, or nothing where it is not. `schema` is changed on the way.
    """
    until_s = time.monotonic() + MAX_FIND_S

    def is_still_refused() -> bool:
        return time.monotonic() < until_s and refusal(schema) == reason

    path: Path = ()
    node = schema
    while (place := _to_blame(_places(node), is_still_refused)) is not None:
        holder, key, names = place
        path, node = path + names, holder[key]
    for keyword in list(node):
        value = node.pop(keyword)
        is_mended = time.monotonic() < until_s and refusal(schema) != reason
        node[keyword] = value
        if is_mended:
            return SchemaRefused(path, keyword, reason)
    return SchemaRefused(path, None, reason)


def _to_blame(places: list[Place], is_still_refused: Callable[[], bool]) -> Place | None:
    """The one schema among these for which the whole is refused. It alone stays in its place then."""
    values = [holder[key] for holder, key, _ in places]

    def put(begin: int, end: int, *, aside: bool) -> None:
        for (holder, key, _), value in zip(places[begin:end], values[begin:end], strict=True):
            holder[key] = {} if aside else value

    put(0, len(places), aside=True)
    begin, end = 0, len(places)
    if places and not is_still_refused():
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
            return places[begin]
    put(0, len(places), aside=False)
    return None


def _walk(schema: Schema) -> Iterator[tuple[Path, Any]]:
    """All schemas within the schema, each after those around it."""
    stack: list[tuple[Path, Any, int]] = [((), schema, 0)]
    while stack:
        path, node, depth = stack.pop()
        yield path, node
        if isinstance(node, dict):
            if depth >= MAX_DEPTH:
                raise SchemaRefused(path, None, f"schemas are nested deeper than {MAX_DEPTH}")
            below = [(path + names, holder[key], depth + 1) for holder, key, names in _places(node)]
            stack += reversed(below)


def _places(node: Schema) -> list[Place]:
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


def _clean(node: Schema) -> None:
    for keyword in DROPPED.intersection(node):
        del node[keyword]
    for keyword, value in NO_OPS.items():
        if keyword in node and node[keyword] is value:
            del node[keyword]
    named = node.get("format")
    if isinstance(named, str) and named not in KNOWN_FORMATS | OTHER_FORMATS:
        del node["format"]


def _check_keywords(node: Schema, path: Path) -> None:
    for keyword in node:
        if keyword in REFUSED:
            raise SchemaRefused(path, keyword, "replies cannot be held to it")
    if node.get("format") in OTHER_FORMATS:
        raise SchemaRefused(path, "format", f"replies cannot be held to '{node['format']}'")
    for keyword in AT_LEAST:
        value = node.get(keyword)
        if isinstance(value, int | float) and value > MAX_AT_LEAST:
            raise SchemaRefused(path, keyword, f"no reply has room for more than {MAX_AT_LEAST}")
    properties, required = node.get("properties"), node.get("required", [])
    if isinstance(properties, dict) and isinstance(required, list):
        names = {name for name in required if isinstance(name, str)}
        if len(properties.keys() - names) > MAX_OPTIONAL:
            raise SchemaRefused(
                path,
                "properties",
                f"more than {MAX_OPTIONAL} of them are not in 'required'",
            )


def _target(root: Schema, path: Path, ref: Any) -> Any:
    """What a reference points at."""
    if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
        raise SchemaRefused(
            path, "$ref", "only references to places in the schema itself ('#/…') are followed"
        )
    found: Any = root
    for part in ref.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            raise SchemaRefused(path, "$ref", "it points at nothing in the schema") from None
    return found


def _check_end(root: Schema, targets: dict[tuple[Path, str], Any]) -> None:
    """Raises `SchemaRefused` where whatever fits has something of its own kind in it, without an end."""
    of_ref = {ref: target for (_, ref), target in targets.items()}
    ending: set[str] = set()
    until_s = time.thread_time() + MAX_FOLLOW_S
    waiting = list(of_ref)
    while waiting:
        left = []
        for ref in waiting:
            if time.thread_time() > until_s:
                raise SchemaRefused((), "$ref", "its references take too long to follow")
            if _has_end(of_ref[ref], ending):
                ending.add(ref)
            else:
                left.append(ref)
        if len(left) == len(waiting):
            break
        # The other way round, for chains in either order.
        waiting = left[::-1]
    if not _has_end(root, ending):
        path = next((path for path, ref in targets if ref not in ending), ())
        raise SchemaRefused(path, "$ref", "nothing that fits the schema has an end")


def _has_end(node: Any, ending: set[str]) -> bool:
    """Whether something fits the schema that has an end, if all that fits other references has none."""
    if not isinstance(node, dict):
        return True
    if "$ref" in node and node["$ref"] not in ending:
        return False
    if not all(_has_end(one, ending) for one in _list(node, "allOf")):
        return False
    for keyword in ("anyOf", "oneOf"):
        choices = _list(node, keyword)
        if choices and not any(_has_end(one, ending) for one in choices):
            return False
    if node.get("type") in ("object", ["object"]):
        return _has_object_end(node, ending)
    if node.get("type") in ("array", ["array"]):
        return _has_array_end(node, ending)
    return True


def _has_object_end(node: Schema, ending: set[str]) -> bool:
    properties = node.get("properties")
    if not isinstance(properties, dict):
        properties = {}
    other = node.get("additionalProperties", True)
    required = (name for name in _list(node, "required") if isinstance(name, str))
    return all(_has_end(properties.get(name, other), ending) for name in required)


def _has_array_end(node: Schema, ending: set[str]) -> bool:
    least = node.get("minItems", 0)
    least = least if isinstance(least, int) else 0
    first = _list(node, "prefixItems") or _list(node, "items")
    rest = node.get("additionalItems" if isinstance(node.get("items"), list) else "items", True)
    if least > len(first) and not _has_end(rest, ending):
        return False
    return all(_has_end(one, ending) for one in first[:least])


def _list(node: Schema, keyword: str) -> list[Any]:
    value = node.get(keyword)
    return value if isinstance(value, list) else []
