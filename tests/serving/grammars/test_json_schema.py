"""What of a schema a reply cannot be held to is refused with the keyword and its path, in bounded time."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.constraints import GrammarVocabulary
from serving.grammars import json_schema, lark
from serving.grammars.compiler import JSON_OPTIONS, CompileRefused, grammar_of
from serving.grammars.schema_places import SchemaRefused
from serving.grammars.source import GrammarSource
from tests.serving.grammars.schemas import Schema, obj

TEXT: Schema = {"type": "string"}
MANY = {f"p{i}": TEXT for i in range(150)}


def refusal(vocabulary: GrammarVocabulary, schema: Schema) -> str:
    source = GrammarSource.json_schema(schema)
    with pytest.raises((CompileRefused, SchemaRefused)) as caught:
        grammar_of(vocabulary.tokens, source.kind, source.text)
    return str(caught.value)


def nested(depth: int) -> Schema:
    schema = TEXT
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[Schema, str]] = [
    ({"not": {}}, "In context=(), 'not' is not permitted: replies cannot be held to it."),
    (obj(a=obj(b={"if": {}, "then": {}})), "In context=('properties', 'a', 'properties', 'b'), 'if' is not permitted"),
    ({"anyOf": [TEXT, {"type": "array", "uniqueItems": True}]}, "In context=('anyOf', '1'), 'uniqueItems' is not permitted"),
    ({"$defs": {"x": {"contains": TEXT}}, "type": "array"}, "In context=('$defs', 'x'), 'contains' is not permitted"),
    (obj(a={"type": "string", "format": "regex"}), "'format' is not permitted: replies cannot be held to 'regex'"),
    (obj(a={"$ref": "https://example.com/schema"}), "In context=('properties', 'a'), '$ref' is not permitted: only references to places"),
    (obj(a={"$ref": "#/$defs/missing"}), "In context=('properties', 'a'), '$ref' is not permitted: it points at nothing"),
    (obj(a={"$ref": 3}), "'$ref' is not permitted"),
    # What fits has itself in it, again and again.
    (obj(a={"$ref": "#"}), "In context=('properties', 'a'), '$ref' is not permitted: nothing that fits the schema has an end"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "has an end"),
    ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "has an end"),
    ({"anyOf": [obj(a={"$ref": "#"}), {"type": "array", "minItems": 2, "prefixItems": [TEXT, {"$ref": "#"}]}]}, "has an end"),
    ({"allOf": [TEXT, {"$ref": "#"}]}, "has an end"),
    # Too much of it.
    (nested(65), "schemas are nested deeper than 64"),
    (obj(a={"enum": list(range(10_001))}), "In context=('properties', 'a'), 'enum' is not permitted: there are more than 10000 values in all"),
    (obj(a={"type": "array", "minItems": 10**9}), "In context=('properties', 'a'), 'minItems' is not permitted: no reply has room"),
    (obj(a={"type": "string", "minLength": 10**9}), "'minLength' is not permitted"),
    (obj(None, **{f"p{i}": True for i in range(1001)}), "'properties' is not permitted: more than 1000 of them are not in 'required'"),
    (obj(a={"patternProperties": {f"^{i}$": True for i in range(101)}}), "In context=('properties', 'a'), 'patternProperties' is not permitted: there are more than 100"),
    ({"anyOf": [True] * 10_001}, "it consists of more than 10000 schemas"),
    ({"anyOf": [{"$ref": "#/$defs/a"}] * 1001, "$defs": {"a": TEXT}}, "there are more than 1000 references"),
    # What llguidance says, in its place.
    (obj(**MANY, bad={"items": {"type": "string", "pattern": "(?=a)b"}}), "In context=('properties', 'bad', 'items'), 'pattern' is not permitted: regex parse error"),
    (obj(**MANY, bad={"type": "string", "minLength": 3, "maxLength": 2}), "In context=('properties', 'bad'), 'minLength' is not permitted: Unsatisfiable"),
    (obj(a={"type": "objec"}), "In context=('properties', 'a'), 'type' is not permitted: Invalid type: objec"),
    (obj(a={"oneOf": [TEXT, {"type": "string", "maxLength": 3}]}), "In context=('properties', 'a'), 'oneOf' is not permitted: its alternatives may fit at once; use 'anyOf'"),
    (obj(a={"properties": []}), "In context=('properties', 'a'), 'properties' is not permitted: it must be an object"),
    (obj(a={"required": 7}), "In context=('properties', 'a'), 'required' is not permitted: it must be an array"),
    (obj(a=3), "In context=('properties', 'a'), the schema is not permitted: a schema is an object or a boolean"),
    ({"type": "object", "minProperties": 2}, "'minProperties' is not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_cannot_be_held_to_is_refused_with_its_keyword_and_path(
    grammar_vocabulary: GrammarVocabulary, schema: Schema, words: str
) -> None:
    assert words in refusal(grammar_vocabulary, schema)


@pytest.mark.parametrize(
    "schema",
    [
        obj(a={"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
        obj(False, a={"$ref": "#"}),
        {"type": "array", "items": {"$ref": "#"}},
        {"$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(80)} | {"d80": TEXT}, "$ref": "#/$defs/d0"},
        {"type": "object", "required": ["a"], "additionalProperties": {"type": ["object", "null"]}},
        nested(60),
    ],
    ids=range(6),
)  # fmt: skip
def test_recursion_that_has_an_end_is_none_to_refuse(
    grammar_vocabulary: GrammarVocabulary, schema: Schema
) -> None:
    assert grammar_of(grammar_vocabulary.tokens, "json_schema", GrammarSource.json_schema(schema).text)  # fmt: skip


# Anything that might come as a schema, with the words of one.
KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "items",
        "anyOf",
        "allOf",
        "$ref",
        "$defs",
        "enum",
        "required",
        "not",
        "minItems",
        "pattern",
        "format",
        "additionalProperties",
        "prefixItems",
        "minimum",
        "const",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70_000) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["object", "string", "#", "#/$defs/a", "^a+$", "(", "date", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(schema=st.dictionaries(KEYWORDS, VALUES, max_size=4))
def test_whatever_comes_is_compiled_or_refused(
    grammar_vocabulary: GrammarVocabulary, schema: dict[str, Any]
) -> None:
    source = GrammarSource.json_schema(schema)
    with suppress(CompileRefused, SchemaRefused):
        assert grammar_of(grammar_vocabulary.tokens, source.kind, source.text)


@pytest.mark.parametrize("ref_first", [True, False])
def test_chains_of_references_are_followed_in_time_that_grows_with_their_length(
    ref_first: bool,
) -> None:
    def num_looks(length: int) -> int:
        looks = 0
        order = list(range(length))

        class Node(dict[str, Any]):
            def get(self, *args: Any) -> Any:
                nonlocal looks
                looks += 1
                return super().get(*args)

        defs = {
            f"d{i}": Node({"$ref": f"#/$defs/d{i + 1}"}) for i in order[:: 1 if ref_first else -1]
        }
        schema = {"$defs": {**defs, f"d{length}": Node(TEXT)}, "$ref": "#/$defs/d0"}
        json_schema.check(schema)
        return looks

    assert num_looks(800) < 6 * num_looks(200)


def test_schemas_within_a_grammar_are_checked_and_written_like_those_alone() -> None:
    text = 'start: "%json {" /%json \\{\\// %json {"type": "string", "format": "date"} // %json {'
    written = lark.checked(text, JSON_OPTIONS)
    assert written.startswith('start: "%json {" /%json \\{\\// %json {"type":"string","pattern":"^')
    assert '"x-guidance":{"whitespace_flexible":true' in written
    assert written.endswith("} // %json {")
    for bad, words in (('start: %json {"not": {}}', "'not'"), ("start: %json {", "is no schema")):
        with pytest.raises(SchemaRefused, match=words):
            lark.checked(bad, JSON_OPTIONS)
