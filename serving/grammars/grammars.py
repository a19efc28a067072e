"""Grammars compiled in threads, each once for a project, and kept as long as there is memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
from llguidance import LLMatcher

from foundation.errors import InvalidRequest
from serving.engine.constraints import (
    LIMITS,
    WRITTEN_LIMITS,
    Constraint,
    GrammarRefused,
    GrammarVocabulary,
)
from serving.text_threads import SHORT_BYTES, TextThreads

from . import json_schema
from .json_schema import SchemaRefused
from .source import GrammarSource

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

BUDGET_BYTES = 256 << 20

# JSON as models write it, compact, with single spaces, or indented; but never white space without an end.
JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"( |\n[ \t]{0,32})?",
    "coerce_one_of": False,
    "lenient": False,
}


class Grammars:
    """Used on the event loop. Projects share nothing: what a choice does to its grammar is no other's trouble."""

    def __init__(
        self, vocabulary: GrammarVocabulary | None, *, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        """Without a vocabulary, for a base whose tokenizer llguidance cannot read, everything is refused."""
        self._vocabulary = vocabulary
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[tuple[str, bytes], Constraint] = OrderedDict()
        self._compiling: dict[tuple[str, bytes], asyncio.Task[Constraint]] = {}
        self._threads = TextThreads("grammars")

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return sum(constraint.size_bytes for constraint in self._kept.values())

    async def compile(self, source: GrammarSource, project: str = "") -> Constraint:
        """What the engine holds a reply to. Raises `InvalidRequest` where that cannot be."""
        key = project, source.digest
        kept = self._kept.get(key)
        if kept is not None and not kept.is_worn:
            self._kept.move_to_end(key)
            return kept
        task = self._compiling.get(key)
        if task is None:
            task = asyncio.create_task(self._compile(key, source))
            self._compiling[key] = task
            task.add_done_callback(lambda done: self._note_done(key, done))
        try:
            # A client that goes away must not take it away from the others who wait for it.
            return await asyncio.shield(task)
        except (GrammarRefused, SchemaRefused) as error:
            raise InvalidRequest(
                f"Invalid {source.noun} for {source.what}: {error}",
                param=source.param,
                code="invalid_grammar" if source.kind != "json_schema" else "invalid_json_schema",
            ) from None

    def close(self) -> None:
        self._threads.close()

    def _note_done(self, key: tuple[str, bytes], task: asyncio.Task[Constraint]) -> None:
        self._compiling.pop(key, None)
        if not task.cancelled():
            # Perhaps nobody waits for it any more.
            task.exception()

    async def _compile(self, key: tuple[str, bytes], source: GrammarSource) -> Constraint:
        vocabulary = self._vocabulary
        if vocabulary is None:
            raise GrammarRefused("the tokenizer of this base model is of a kind that has none")
        # Never at once: it takes longer than its text is long.
        constraint = await self._threads.run(
            key[0], lambda: _compiled(vocabulary, source), size_bytes=SHORT_BYTES + len(source.text)
        )
        self._kept[key] = constraint
        self._kept.move_to_end(key)
        while self.size_bytes > self._budget_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return constraint


def _compiled(vocabulary: GrammarVocabulary, source: GrammarSource) -> Constraint:
    """Raises `GrammarRefused` or `SchemaRefused`, in bounded time."""
    if source.kind == "json_schema":
        return _of_schema(vocabulary, source.text)
    write: Callable[[str], str] = {
        "regex": LLMatcher.grammar_from_regex,
        "lark": LLMatcher.grammar_from_lark,
    }[source.kind]
    return Constraint(
        vocabulary, write(source.text), limits=LIMITS if source.is_ours else WRITTEN_LIMITS
    )


def _of_schema(vocabulary: GrammarVocabulary, text: str) -> Constraint:
    schema = orjson.loads(text)
    json_schema.check(schema)
    try:
        return Constraint(vocabulary, _grammar(schema), limits=LIMITS)
    except GrammarRefused as error:
        reason = str(error)

    def refusal(changed: dict[str, Any]) -> str:
        try:
            Constraint(vocabulary, _grammar(changed), limits=LIMITS)
        except GrammarRefused as error:
            return str(error)
        return ""

    raise json_schema.find(schema, refusal, reason)


def _grammar(schema: dict[str, Any]) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(
            orjson.dumps(schema).decode(), overrides=JSON_OPTIONS
        )
    except ValueError as error:
        raise GrammarRefused(str(error)) from error
