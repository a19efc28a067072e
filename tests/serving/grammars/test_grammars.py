"""Grammars are compiled once, away from everybody else, and nobody can harm another by them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from foundation.errors import InvalidRequest
from serving.engine.constraints import WORN_TOKENS, Constraint, GrammarVocabulary
from serving.grammars.grammars import Grammars
from serving.grammars.process import CompilerProcess
from serving.grammars.source import MAX_SOURCE_BYTES, GrammarSource

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = GrammarSource("regex", "[a-z]+")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grammars(grammar_vocabulary: GrammarVocabulary) -> AsyncIterator[Grammars]:
    it = Grammars(grammar_vocabulary, max_cpu_s=0.5)
    yield it
    it.close()


async def refusal(grammars: Grammars, source: GrammarSource) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await grammars.compile(source)
    return caught.value


async def test_each_is_compiled_once_for_a_project(grammars: Grammars) -> None:
    first, second = await asyncio.gather(
        grammars.compile(WORDS, "p1"), grammars.compile(WORDS, "p1")
    )
    assert first is second
    assert await grammars.compile(GrammarSource("regex", "[a-z]+", param="other"), "p1") is first
    # What one project does with it is no other's trouble.
    assert await grammars.compile(WORDS, "p2") is not first
    assert (
        await grammars.compile(GrammarSource("lark", "[a-z]+".join(["start: /", "/"])), "p1")
        is not first
    )


async def test_what_is_broken_or_worn_is_compiled_anew(grammars: Grammars) -> None:
    first = await grammars.compile(WORDS, "p3")
    first.is_broken = True
    second = await grammars.compile(WORDS, "p3")
    assert second is not first
    second.num_tokens = WORN_TOKENS + 1
    assert await grammars.compile(WORDS, "p3") is not second


async def test_the_least_recently_used_go_when_memory_is_short(
    grammar_vocabulary: GrammarVocabulary,
) -> None:
    grammars = Grammars(grammar_vocabulary, budget_bytes=3 << 20)
    try:
        a, b, c = (GrammarSource("regex", letter) for letter in "abc")
        kept: list[Constraint] = [await grammars.compile(source) for source in (a, b)]
        assert await grammars.compile(a) is kept[0]
        await grammars.compile(c)
        assert grammars.num_kept == 2
        assert grammars.size_bytes <= 3 << 20
        assert await grammars.compile(a) is kept[0]
        assert await grammars.compile(b) is not kept[1]
    finally:
        grammars.close()


HOSTILE: list[tuple[GrammarSource, str]] = [
    # So deep that the process that compiles it dies.
    (GrammarSource("lark", "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(4000)) + 'r4000: "a"'),
     "it is nested too deep"),
    (GrammarSource("lark", "start: A\nA: " + " & ".join(f"/.*{chr(97 + i % 26)}.*{i}/" for i in range(2000))),
     "it takes more than 0.5 s to compile"),
    (GrammarSource("regex", "(" * 5000), "unclosed group"),
    (GrammarSource("lark", 'start: %json {"$ref": "#"}'), "has an end"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "words"), HOSTILE, ids=range(len(HOSTILE)))
async def test_what_would_take_the_server_along_is_refused_and_the_next_is_compiled(
    grammars: Grammars, source: GrammarSource, words: str
) -> None:
    error = await refusal(grammars, source)
    assert words in error.message
    assert (error.status, error.param) == (400, "response_format")
    assert await grammars.compile(GrammarSource("regex", f"after {len(source.text)}"))


async def test_a_process_that_was_killed_is_followed_by_another(grammars: Grammars) -> None:
    for process in grammars._processes:
        os.kill(process._process.pid, signal.SIGKILL)
        process._process.wait()
    # One request finds out, the next has a new one.
    for number in range(len(grammars._processes)):
        await asyncio.gather(
            grammars.compile(GrammarSource("regex", f"killed {number}")), return_exceptions=True
        )
    assert await grammars.compile(GrammarSource("regex", "alive"))


async def test_the_event_loop_goes_on_meanwhile(grammars: Grammars) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {f"p{i}": {"enum": [f"{i} {k}" for k in range(40)]} for i in range(150)},
    }
    compiling = asyncio.create_task(grammars.compile(GrammarSource.json_schema(schema)))
    num_turns = 0
    while not compiling.done():
        await asyncio.sleep(0)
        num_turns += 1
    assert await compiling
    assert num_turns > 20


async def test_a_client_that_leaves_does_not_take_it_from_the_others(grammars: Grammars) -> None:
    source = GrammarSource("regex", "left[0-9]{3}")
    leaving = asyncio.create_task(grammars.compile(source, "p"))
    staying = asyncio.create_task(grammars.compile(source, "p"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance(await staying, Constraint)


async def test_without_a_vocabulary_everything_is_refused() -> None:
    grammars = Grammars(None)
    assert "has none" in (await refusal(grammars, WORDS)).message
    grammars.close()


async def test_what_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(InvalidRequest) as caught:
        GrammarSource("regex", "a" * (MAX_SOURCE_BYTES + 1))
    assert caught.value.code == "grammar_too_large"


async def test_a_server_of_many_connections_tries_grammars_too(
    grammar_vocabulary: GrammarVocabulary,
) -> None:
    """Descriptors from 1024 on are none for `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while held[-1] < 1024:
            held.append(os.dup(held[0]))
        process = CompilerProcess(grammar_vocabulary)
        try:
            assert process.grammar(WORDS)
        finally:
            process.close()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
