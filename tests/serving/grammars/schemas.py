"""JSON schemas of all sorts that replies can be held to: some written by hand, the others made up from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]


def obj(required: Any = True, /, **properties: Any) -> Schema:
    closed = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**closed, "required": list(properties)} if required else closed


TEXT: Schema = {"type": "string", "maxLength": 4}
NUMBER: Schema = {"type": "integer", "minimum": -20, "maximum": 20}
TREE: Schema = {
    "$defs": {
        "node": obj(
            value=NUMBER,
            children={"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
        )
    },
    "$ref": "#/$defs/node",
}

WRITTEN: list[Schema] = [
    {"type": "string", "maxLength": 5},
    {"type": "string", "minLength": 3, "maxLength": 3},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"type": "string", "pattern": "^(yes|no)$"},
    {"type": "string", "pattern": r"^\d{3}-\d{4}$"},
    {"type": "string", "pattern": "^[ä-ü]{1,3}$"},
    {"type": "string", "pattern": "x{2}", "maxLength": 12},
    {"type": "string", "enum": ["a", 'quo"te', "line\nend", "ü", "\\"]},
    {"type": "string", "const": "only"},
    *({"type": "string", "format": f} for f in ("date", "time", "date-time", "uuid", "uuid4")),
    *({"type": "string", "format": f} for f in ("ipv4", "ipv6", "duration")),
    {"type": "string", "format": "nobody-knows", "maxLength": 3},
    {"type": "string", "format": "date", "pattern": "^20"},
    {"type": "integer", "minimum": 0, "maximum": 255},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
    {"type": "integer", "minimum": -7, "maximum": 7, "multipleOf": 7},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 2.25},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["string", "null"], "maxLength": 3},
    {"type": ["integer", "boolean"]},
    {"const": {"a": [1, None, True, "x"]}},
    {"enum": [1, "1", True, None, [1], {"a": 1}]},
    {"type": "array", "items": NUMBER, "maxItems": 3},
    {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 4},
    {"type": "array", "items": TEXT, "minItems": 2.0, "maxItems": 2.0},
    {"type": "array", "prefixItems": [TEXT, NUMBER], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [TEXT], "items": NUMBER, "minItems": 1, "maxItems": 3},
    {"type": "array", "items": {"type": "array", "items": NUMBER, "maxItems": 2}, "maxItems": 2},
    {"type": "array", "items": NUMBER, "maxItems": 2, "uniqueItems": False},
    {"type": "array", "maxItems": 0},
    obj(),
    obj(a=TEXT),
    obj(a=TEXT, b=NUMBER, c={"type": "boolean"}),
    obj(False, a=TEXT, b=NUMBER),
    {**obj(False, a=TEXT, b=NUMBER, c=NUMBER), "required": ["b"]},
    {"type": "object", "properties": {"a": NUMBER}, "additionalProperties": NUMBER, "required": ["a"]},
    {"type": "object", "additionalProperties": {"enum": [1]}, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^x[0-9]$": NUMBER}, "additionalProperties": False},
    {**obj(False, a=NUMBER), "minProperties": 1, "required": ["a"]},
    obj(**{'na"me': NUMBER, "ü": NUMBER, "a b": NUMBER, "$ref": NUMBER, "properties": NUMBER}),
    obj(**{"not": obj(**{"if": NUMBER}), "enum": TEXT}),
    obj(outer=obj(inner=obj(value=NUMBER))),
    {"anyOf": [NUMBER, {"type": "null"}]},
    {"anyOf": [obj(kind={"const": "a"}, a=TEXT), obj(kind={"const": "b"}, b=NUMBER)]},
    {"oneOf": [obj(kind={"const": "a"}, a=TEXT), obj(kind={"const": "b"}, b=NUMBER)]},
    {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "integer", "maximum": 9, "minimum": 0}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 6}]},
    {"allOf": [{"type": "object", "properties": {"a": NUMBER}, "required": ["a"]}, {"properties": {"b": TEXT}}],
     "properties": {"a": True, "b": True}, "additionalProperties": False},
    {"$defs": {"n": NUMBER}, **obj(a={"$ref": "#/$defs/n"}, b={"$ref": "#/$defs/n"})},
    {"definitions": {"n": TEXT}, **obj(a={"$ref": "#/definitions/n", "description": "what it is"})},
    {"$defs": {"n/m": NUMBER}, **obj(a={"$ref": "#/$defs/n~1m"})},
    TREE,
    {"$defs": {"list": {"anyOf": [{"type": "null"}, obj(head=NUMBER, tail={"$ref": "#/$defs/list"})]}},
     "$ref": "#/$defs/list"},
    {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "#root", "title": "t", "description": "d",
     "examples": [1], "default": 1, "deprecated": True, "x-guidance": {"lenient": True}, **obj(a=NUMBER)},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [NUMBER, TEXT],
     "additionalItems": False, "minItems": 2},
]  # fmt: skip


def made_up(seed: int) -> Schema:
    """A small schema, whatever it is of."""
    return _any(random.Random(seed), 3)


def _any(chance: random.Random, depth: int) -> Schema:
    simple: list[Callable[[random.Random], Schema]] = [_string, _integer, _number, _choice, _fixed]
    if depth == 0:
        return chance.choice(simple)(chance)
    nested = [_object, _object, _array, _union]
    if chance.random() < 0.6:
        return chance.choice(nested)(chance, depth - 1)
    return chance.choice(simple)(chance)


def _string(chance: random.Random) -> Schema:
    least = chance.randrange(3)
    forms: list[Schema] = [
        {"minLength": least, "maxLength": least + chance.randrange(3)},
        {"pattern": f"^[a-{chance.choice('cxz')}]{{{least},{least + 2}}}$"},
        {"pattern": f"^({chance.choice(['ab', 'x', 'ü'])}|[0-9]{{{least + 1}}})$"},
        {"format": chance.choice(["date", "time", "uuid", "ipv4"])},
        {"maxLength": 2},
    ]
    return {"type": "string", **chance.choice(forms)}


def _integer(chance: random.Random) -> Schema:
    low = chance.randrange(-120, 120)
    forms: list[Schema] = [
        {"minimum": low, "maximum": low + chance.randrange(200)},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + 2 + chance.randrange(50)},
        {"minimum": 0, "maximum": 100, "multipleOf": chance.choice([2, 5, 10])},
    ]
    return {"type": "integer", **chance.choice(forms)}


def _number(chance: random.Random) -> Schema:
    low = chance.randrange(-40, 40) / chance.choice([1, 4, 8])
    return {"type": "number", "minimum": low, "maximum": low + chance.choice([0.25, 1, 7.5])}


def _choice(chance: random.Random) -> Schema:
    values = ["a", "b c", 1, -2.5, True, None, "ä", [1, 2], {"k": "v"}, ""]
    return {"enum": chance.sample(values, chance.randrange(1, 5))}


def _fixed(chance: random.Random) -> Schema:
    return chance.choice([{"type": "boolean"}, {"type": "null"}, {"const": "x"}, {"const": 7}])


def _object(chance: random.Random, depth: int) -> Schema:
    names = chance.sample(["a", "b", "name", "x y", 'q"', "é", "id"], chance.randrange(1, 4))
    properties = {name: _any(chance, depth) for name in names}
    required = [name for name in names if chance.random() < 0.7]
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    schema["additionalProperties"] = chance.choice([False, False, False, _fixed(chance)])
    return schema


def _array(chance: random.Random, depth: int) -> Schema:
    least = chance.randrange(3)
    schema: Schema = {"type": "array", "items": _any(chance, depth), "minItems": least}
    if chance.random() < 0.3:
        schema["prefixItems"] = [_any(chance, depth)]
    return {**schema, "maxItems": least + chance.randrange(2)}


def _union(chance: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(chance, depth) for _ in range(chance.randrange(1, 4))]}
