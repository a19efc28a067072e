"""What a chat's reply is held to: a format, calls that must be made, arguments that must fit."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from foundation.errors import InvalidRequest
from serving.engine.constraints import Constraint
from serving.grammars import json_schema
from serving.grammars.compiler import JSON_OPTIONS
from serving.grammars.schema_places import SchemaRefused
from serving.grammars.source import GrammarSource
from text.tools.dialect import Dialect
from text.tools.grammar import ANY_ARGUMENTS, NO_ARGUMENTS, CallableFunction

from .tools import Function, Offer

Compile = Callable[[GrammarSource], Awaitable[Constraint]]


@dataclass(frozen=True)
class HeldReply:
    """Made of a request in time that is linear in it; compiled afterwards."""

    offer: Offer
    dialect: Dialect
    content: GrammarSource | None
    """What a reply without calls is held to."""
    schemas: tuple[dict[str, Any], ...] = ()
    """What the arguments of each function that may be called are held to."""

    @classmethod
    def of(cls, offer: Offer, dialect: Dialect, content: GrammarSource | None) -> HeldReply:
        """Raises `InvalidRequest`."""
        functions = offer.callable_functions
        is_held = offer.must_call or any(function.strict for _, function in functions)
        if content is None and not is_held:
            return cls(offer, dialect, None)
        if content is not None and content.kind != "json_schema" and functions:
            raise InvalidRequest(
                f"'{content.param}' and '{offer.param}' cannot both say how the reply shall look.",
                param=content.param,
            )
        return cls(
            offer,
            dialect,
            content,
            tuple(_checked(function, offer.where(index)) for index, function in functions),
        )

    @property
    def shows_thoughts(self) -> bool:
        """Whether the reply may begin with thoughts, if the base has any."""
        return self.content is None or self.content.kind == "json_schema"

    async def compile(self, compile_source: Compile) -> Constraint | None:
        """None where any reply is good. Raises `InvalidRequest`, with what is at fault where that can be found."""
        if self.content is None and not self.schemas:
            return None
        if self.content is not None and not self._has_own_grammar:
            return await compile_source(self.content)
        try:
            return await compile_source(self._source(self.schemas))
        except InvalidRequest:
            schemas = [await self._usable(number, compile_source) for number in self._numbers]
            if self.content is not None:
                await compile_source(self.content)
            if schemas == list(self.schemas):
                raise
        return await compile_source(self._source(schemas))

    @property
    def _has_own_grammar(self) -> bool:
        thinks = self.dialect.reasoning is not None and self.shows_thoughts
        return bool(self.schemas) or thinks

    @property
    def _numbers(self) -> range:
        return range(len(self.schemas))

    async def _usable(self, number: int, compile_source: Compile) -> dict[str, Any]:
        """The schema of a function; where that is no good, any arguments for one that is not strict."""
        index, function = self.offer.callable_functions[number]
        schema = self.schemas[number]
        what = f"function '{function.name}'"
        try:
            await compile_source(GrammarSource.json_schema(schema, what=what))
        except InvalidRequest as error:
            if function.strict:
                raise InvalidRequest(
                    error.message,
                    param=self.offer.where(index),
                    code="invalid_function_parameters",
                ) from None
            return ANY_ARGUMENTS
        return schema

    def _source(self, schemas: Sequence[dict[str, Any]]) -> GrammarSource:
        functions = [
            CallableFunction(function.name, schema)
            for (_, function), schema in zip(self.offer.callable_functions, schemas, strict=True)
        ]
        text = self.dialect.reply_grammar.of(
            functions,
            must_call=self.offer.must_call,
            is_parallel=self.offer.is_parallel,
            content=self._content_rule(),
        )
        param = self.offer.param if functions else "response_format"
        return GrammarSource("lark", text, param=param, what=param, is_ours=True)

    def _content_rule(self) -> str | None:
        if self.content is None:
            return None
        schema = orjson.loads(self.content.text)
        try:
            json_schema.check(schema)
        except SchemaRefused as error:
            raise self.content.refusal(error) from None
        return f"%json {orjson.dumps({**schema, 'x-guidance': JSON_OPTIONS}).decode()}"


def _checked(function: Function, where: str) -> dict[str, Any]:
    """What the arguments of a function are held to. Raises `InvalidRequest` where a strict one cannot be."""
    if function.parameters is None:
        return NO_ARGUMENTS
    schema = copy.deepcopy(function.parameters)
    schema.setdefault("type", "object")
    try:
        json_schema.check(schema)
    except SchemaRefused as error:
        if function.strict:
            raise InvalidRequest(
                f"Invalid schema for function '{function.name}': {error}",
                param=where,
                code="invalid_function_parameters",
            ) from None
        return ANY_ARGUMENTS
    return schema
