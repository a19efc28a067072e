"""The JSON schemas within a grammar: checked, and written as all are, like those that stand alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import orjson

from . import json_schema
from .schema_places import SchemaRefused

# What may hold the same characters and is no schema: strings, regular expressions, comments.
_TOKENS = re.compile(
    r'"(?:\\.|[^"\\\n])*"|/(?![/*])(?:\\.|[^/\\\n])+/|//[^\n]*|#[^\n]*|%json\s*(?=\{)'
)
_DECODER = json.JSONDecoder()


def checked(text: str, options: Mapping[str, object]) -> str:
    """The grammar with its schemas checked, and `options` in each. Raises `SchemaRefused`."""
    written: list[str] = []
    start = 0
    while match := _TOKENS.search(text, start):
        written.append(text[start : match.end()])
        start = match.end()
        if match[0].startswith("%json"):
            schema, start = _schema(text, start)
            json_schema.check(schema)
            written.append(orjson.dumps({**schema, "x-guidance": dict(options)}).decode())
    return "".join([*written, text[start:]])


def _schema(text: str, start: int) -> tuple[dict[str, object], int]:
    try:
        schema, end = _DECODER.raw_decode(text, start)
        # As JSON has it: what Python takes besides is refused here.
        return orjson.loads(orjson.dumps(schema)), end
    except (ValueError, RecursionError, TypeError) as error:
        raise SchemaRefused((), None, f"what follows %json is no schema: {error}") from None
