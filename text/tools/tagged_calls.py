"""Calls whose arguments stand one by one between tags, `<function=name><parameter=key>value</parameter></function>`.

So Qwen's models from 3.5 on and its coders have them, GLM's and Nemotron's. Texts are written as they are and
everything else as JSON, so the parameters of a tool say which is which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .deltas import Calls
from .source import Reading, Source
from .writing import NOTHING, Writing, json_rule, lark_text

_NAME = re.compile(r"[\w.-]*")
_KEY = re.compile(r"[^<>\"\n]*")
_TAG = re.compile(r"<[^<>]*>")
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True)
class TaggedCalls:
    openings: tuple[str, ...]
    head: str
    """Behind the name."""
    key_opening: str
    key_closing: str
    """Up to the value."""
    value_closing: str
    again: str
    """From the last value to the next call's name."""
    closing: str
    bare_start: str = ""
    value_end: str = field(default="", compare=False)
    """What is written behind a value, and so before the next key."""
    value_begin: str = field(default="", compare=False)
    writing: Writing = field(default=NOTHING, compare=False)

    @property
    def markup(self) -> tuple[str, ...]:
        inner = (self.head, self.key_opening, self.key_closing, self.value_closing)
        return (*self.openings, *inner, self.again, self.closing)

    @property
    def rules(self) -> tuple[str, ...]:
        return (f"text_value[lazy]: TEXT {lark_text(self.value_end)}",)

    def arguments_rule(self, schema: Mapping[str, Any]) -> str:
        """Lark: arguments that fit."""
        properties = schema.get("properties") or {}
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        rules = []
        for key, value in properties.items():
            own = value if isinstance(value, dict) else {}
            before = lark_text(f"{self.key_opening}{key}{self.value_begin}")
            rule = f"{before} {self._value_rule(own, shared)}"
            rules.append(rule if key in schema.get("required", ()) else f"({rule})?")
        if not properties and schema.get("additionalProperties") is not False:
            before, between = lark_text(self.key_opening), lark_text(self.value_begin)
            rules.append(f"({before} /[A-Za-z_]\\w*/ {between} text_value)*")
        return " ".join(rules)

    def _value_rule(self, schema: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
        types, values = _types(schema), schema.get("enum")
        if isinstance(values, list) and values and types == {"string"}:
            texts = " | ".join(lark_text(f"{value}{self.value_end}") for value in values)
            return f"({texts})"
        if "string" in types:
            return "text_value"
        return f"{json_rule({**schema, **shared})} {lark_text(self.value_end)}"

    def read(self, source: Source, calls: Calls) -> Reading[bool]:
        """The calls behind an opening. False where what comes is none; the source has kept it."""
        while True:
            yield from source.spaces()
            name = yield from source.run(_NAME)
            if not calls.offers(name):
                return False
            yield from source.spaces()
            if self.head and not (yield from source.one_of((self.head,))):
                return False
            calls.begin(name)
            yield from self._read_arguments(source, calls, calls.properties(name))
            if calls.is_full:
                return True
            source.keep()
            yield from source.spaces()
            if not (yield from source.one_of((self.again,))):
                break
        for tag in _TAG.findall(self.closing):
            yield from source.spaces()
            yield from source.one_of((tag,))
        return True

    def _read_arguments(
        self, source: Source, calls: Calls, properties: Mapping[str, Any]
    ) -> Reading[None]:
        """Nothing is told of a value whose end does not come, nor is the object ended then."""
        before = "{"
        while True:
            yield from source.spaces()
            if not (yield from source.one_of((self.key_opening,))):
                calls.arguments("{}" if before == "{" else "}")
                return
            key = yield from source.run(_KEY)
            yield from source.spaces()
            if not (yield from source.one_of((self.key_closing,))):
                return
            value = yield from self._read_value(source)
            if value is None:
                return
            written = _as_json(value, properties.get(key))
            calls.arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: {written}")
            before = ", "

    def _read_value(self, source: Source) -> Reading[str | None]:
        plain = re.compile(f"[^{re.escape(self.value_closing[0])}]*")
        pieces: list[str] = []
        while not (yield from source.one_of((self.value_closing,))):
            if not (yield from source.peek()):
                return None
            pieces.append(source.available(plain) or source.take(1))
        value = "".join(pieces)
        if self.value_begin.endswith("\n"):
            value = value.removeprefix("\n")
        return value.removesuffix("\n") if self.value_end.startswith("\n") else value


def _types(schema: Any) -> set[str]:
    """What a value may be; nothing if the schema does not say."""
    if not isinstance(schema, dict):
        return set()
    # Nobody has checked it, unless calls are held to it.
    named = schema.get("type")
    types = {t for t in (named if isinstance(named, list) else [named]) if isinstance(t, str)}
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        for one in choices if isinstance(choices, list) else ():
            types |= _types(one)
    if not types and isinstance(schema.get("enum"), list):
        types = {"string" if isinstance(v, str) else "other" for v in schema["enum"]}
    return types


def _as_json(value: str, schema: Any) -> str:
    types = _types(schema)
    written = _CONSTANTS.get(value.strip(), value.strip())
    is_text = "string" in types and not (written == "null" and "null" in types)
    if not is_text:
        try:
            json.loads(written)
            return written
        except (ValueError, RecursionError):
            pass
    return json.dumps(value, ensure_ascii=False)
