"""Calls as Python writes them, `[name(key="value")]`, as some models of Llama have them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .deltas import Calls
from .source import Reading, Source
from .writing import NOTHING, Writing, json_rule, lark_text

MAX_OPTIONAL = 8
"""So many arguments that need not be there are written in all ways: the grammar grows with the square."""
_NAME = re.compile(r"[\w.-]*")
_PLAIN = re.compile(r"[^()\[\]{}'\"]*")
_IN_STRING = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
# As JSON, and so models, write them.
_CONSTANTS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class PythonCalls:
    openings: tuple[str, ...]
    closing: str
    bare_start: str = "["
    writing: Writing = field(default=NOTHING, compare=False)

    @property
    def rules(self) -> tuple[str, ...]:
        return ()

    def arguments_rule(self, schema: Mapping[str, Any]) -> str:
        """Lark: arguments that fit, in their brackets."""
        properties = schema.get("properties") or {}
        if not properties:
            is_open = schema.get("additionalProperties") is not False
            value = rf'/[A-Za-z_]\w*/ "=" {json_rule({})}'
            return f'"(" ({value} (", " {value})*)? ")"' if is_open else '"()"'
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        required: list[str] = []
        optional: list[str] = []
        for key, value in properties.items():
            own = value if isinstance(value, dict) else {}
            rule = f"{lark_text(f'{key}=')} {json_rule({**own, **shared})}"
            (required if key in schema.get("required", ()) else optional).append(rule)
        if required:
            first = ' ", " '.join(required)
            return f'"(" {_first_of([first, *optional])} ")"'
        if len(optional) > MAX_OPTIONAL:
            # Python takes a comma behind the last one.
            return " ".join(['"("', *(f'({rule} ", ")?' for rule in optional), '")"'])
        firsts = " | ".join(_first_of(optional[i:]) for i in range(len(optional)))
        return f'"(" ({firsts})? ")"'

    @property
    def markup(self) -> tuple[str, ...]:
        return (*self.openings, self.closing)

    def read(self, source: Source, calls: Calls) -> Reading[bool]:
        """The calls behind an opening. False where what comes is none; the source has kept it."""
        yield from source.spaces()
        if not (yield from source.one_of("[")):
            return False
        while True:
            yield from source.spaces()
            name = yield from source.run(_NAME)
            if not calls.offers(name) or (yield from source.peek()) != "(":
                return False
            arguments = as_json((yield from _read_brackets(source)))
            if arguments is None:
                return False
            calls.begin(name)
            calls.arguments(arguments)
            if calls.is_full:
                return True
            source.keep()
            yield from source.spaces()
            if not (yield from source.one_of(",")):
                break
        yield from source.one_of("]")
        yield from source.spaces()
        yield from source.one_of((self.closing,))
        return True


def _first_of(rules: Sequence[str]) -> str:
    """The first one, and any of the others behind it."""
    return " ".join([rules[0], *(f'(", " {rule})?' for rule in rules[1:])])


def as_json(written: str) -> str | None:
    """The keywords of `(key="value")` as an object of JSON; None if they are anything else."""
    try:
        call = ast.parse(f"f{written}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        arguments = {str(k.arg): _value(k.value) for k in call.keywords if k.arg}
        if len(arguments) < len(call.keywords):
            return None
        return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


class _Constants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node


def _value(node: ast.expr) -> object:
    value: object = ast.literal_eval(_Constants().visit(node))
    return value


def _read_brackets(source: Source) -> Reading[str]:
    """From an opening bracket to the one that closes it, or as far as the text goes."""
    pieces: list[str] = []
    open_brackets: list[str] = []
    while char := (yield from source.peek()):
        if char in _IN_STRING:
            yield from _read_string(source, char, pieces)
        elif char in _CLOSING:
            open_brackets.append(_CLOSING[char])
            pieces.append(source.take(1))
        elif char == open_brackets[-1]:
            pieces.append(source.take(1))
            open_brackets.pop()
            if not open_brackets:
                break
        elif plain := source.available(_PLAIN):
            pieces.append(plain)
        else:
            break
    return "".join(pieces)


def _read_string(source: Source, quote: str, pieces: list[str]) -> Reading[None]:
    pieces.append(source.take(1))
    while char := (yield from source.peek()):
        if char in (quote, "\\"):
            pieces.append(source.take(1))
            if char == quote:
                return
            yield from source.peek()
            pieces.append(source.take(1))
        else:
            pieces.append(source.available(_IN_STRING[quote]))
