"""JSON schemas: what of them a reply cannot be held to.

llguidance refuses what it cannot hold a reply to, but does not say where it found it; some schemas that it takes are
too large for everybody else, and some have no end. So the schema is walked through before.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import unquote

from . import formats
from .schema_places import Path, Schema, SchemaRefused, walk

MAX_DEPTH = 64
"""Schemas within each other."""
MAX_SCHEMAS = 10_000
MAX_OPTIONAL = 1_000
"""Properties of an object that need not be there: each of them may come next."""
MAX_PATTERN_PROPERTIES = 100
"""Of an object; each is compared with each."""
MAX_REFS = 1_000
MAX_ENUM = 10_000
"""Values, in all lists together."""
MAX_AT_LEAST = 65_536
"""Items, characters or properties that must be there: no reply has room for more."""
MAX_FOLLOW_S = 0.5

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
AT_LEAST = ("minItems", "minLength", "minProperties")
COUNTS = (*AT_LEAST, "maxItems", "maxLength", "maxProperties")


def check(schema: Schema) -> None:
    """Raises `SchemaRefused` for the first thing that a reply cannot be held to; takes away what says nothing."""
    refs: list[tuple[Path, str]] = []
    num_enum = 0
    for number, (path, node) in enumerate(walk(schema, MAX_DEPTH)):
        if number >= MAX_SCHEMAS:
            raise SchemaRefused((), None, f"it consists of more than {MAX_SCHEMAS} schemas")
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise SchemaRefused(path, None, "a schema is an object or a boolean")
        _clean(node)
        _check_kinds(node, path)
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


def _clean(node: Schema) -> None:
    for keyword in DROPPED.intersection(node):
        del node[keyword]
    for keyword, value in NO_OPS.items():
        if keyword in node and node[keyword] is value:
            del node[keyword]
    for keyword in COUNTS:
        value = node.get(keyword)
        if isinstance(value, float) and value.is_integer():
            node[keyword] = int(value)
    formats.restate(node)


def _check_kinds(node: Schema, path: Path) -> None:
    """Of what grammars of calls are made of, before anybody else looks at it."""
    for keyword, kind, wanted in (
        ("properties", dict, "an object"),
        ("required", list, "an array"),
    ):
        if keyword in node and not isinstance(node[keyword], kind):
            raise SchemaRefused(path, keyword, f"it must be {wanted}")


def _check_keywords(node: Schema, path: Path) -> None:
    for keyword in node:
        if keyword in REFUSED:
            raise SchemaRefused(path, keyword, "replies cannot be held to it")
    named = node.get("format")
    if isinstance(named, str) and named in formats.REFUSED:
        raise SchemaRefused(path, "format", f"replies cannot be held to '{named}'")
    for keyword in AT_LEAST:
        value = node.get(keyword)
        if isinstance(value, int | float) and value > MAX_AT_LEAST:
            raise SchemaRefused(path, keyword, f"no reply has room for more than {MAX_AT_LEAST}")
    required = {name for name in _list(node, "required") if isinstance(name, str)}
    properties = node.get("properties")
    if isinstance(properties, dict) and len(properties.keys() - required) > MAX_OPTIONAL:
        raise SchemaRefused(
            path, "properties", f"more than {MAX_OPTIONAL} of them are not in 'required'"
        )
    patterns = node.get("patternProperties")
    if isinstance(patterns, dict) and len(patterns) > MAX_PATTERN_PROPERTIES:
        raise SchemaRefused(
            path, "patternProperties", f"there are more than {MAX_PATTERN_PROPERTIES}"
        )
    least = node.get("minProperties")
    if isinstance(least, int) and least > max(1, len(required)):
        # A name that comes twice counts once, and nothing prevents that.
        raise SchemaRefused(path, "minProperties", "replies are held to those in 'required' only")


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
