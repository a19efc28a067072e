"""`python -m serving.grammars.compiler MAX_CPU_S TOKENIZER_FILE VOCAB_SIZE STOP_ID…`: tries what people send, in a process that may die of it.

llguidance compiles in milliseconds what is meant well. What is not can take it minutes, all memory, or so deep that the
process ends. So everything is compiled here first; what got through is compiled again where it is used.

Each request is a line of JSON on stdin, and so is its answer on stdout.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from serving.engine.grammar_limits import LIMITS, grammar_tokens, in_one_line, limits_of

from . import json_schema, lark, schema_places
from .schema_places import SchemaRefused

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_MEMORY_BYTES = 1 << 30
"""On top of the tokenizer's."""
# Less than any thread has that compiles the same again.
STACK_BYTES = 1 << 20
# So far it is followed at random, for masks that take too long to be waited for.
TRIAL_TOKENS = 24
MAX_MASK_S = 0.1

# JSON as models write it, compact, with single spaces, or indented; but never white space without an end.
JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"( |\n[ \t]{0,32})?",
    "coerce_one_of": False,
    "lenient": False,
}


class CompileRefused(Exception):
    """What llguidance says against a grammar."""


def main() -> None:
    # Whoever generates goes first.
    os.nice(5)
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_serve)
    thread.start()
    thread.join()


def _serve() -> None:
    max_cpu_s, tokenizer_file, *numbers = sys.argv[1:]
    vocab_size, *stop_ids = map(int, numbers)
    tokens = grammar_tokens(Path(tokenizer_file), vocab_size, stop_ids)
    _limit_memory()
    for line in sys.stdin.buffer:
        # Whoever is not done by then ends by the signal.
        signal.setitimer(signal.ITIMER_PROF, float(max_cpu_s))
        answer = json.dumps(_answer(tokens, orjson.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _limit_memory() -> None:
    if sys.platform == "linux":
        num_pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = num_pages * os.sysconf("SC_PAGE_SIZE") + MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answer(tokens: LLTokenizer, asked: dict[str, Any]) -> dict[str, str]:
    try:
        return {"grammar": grammar_of(tokens, **asked)}
    except (CompileRefused, SchemaRefused) as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "it takes too much memory to compile"}


def grammar_of(tokens: LLTokenizer, kind: str, text: str, is_ours: bool = False) -> str:
    """What llguidance compiles. Raises `CompileRefused` or `SchemaRefused`."""
    if kind == "json_schema":
        return _of_schema(tokens, text)
    if kind == "regex":
        grammar = LLMatcher.grammar_from_regex(text)
    else:
        # The schemas in ours have been checked, and say themselves how JSON is to be written.
        written = text if is_ours else lark.checked(text, JSON_OPTIONS)
        grammar = LLMatcher.grammar_from_lark(written)
    _follow(_compile(tokens, grammar, limits_of(kind, is_ours=is_ours)))
    return grammar


def _of_schema(tokens: LLTokenizer, text: str) -> str:
    schema = orjson.loads(text)
    json_schema.check(schema)
    try:
        grammar = _grammar(schema)
        matcher = _compile(tokens, grammar, LIMITS)
    except CompileRefused as error:
        reason = str(error)
    else:
        _follow(matcher)
        return grammar

    def refusal(changed: dict[str, Any]) -> str:
        try:
            _compile(tokens, _grammar(changed), LIMITS)
        except CompileRefused as error:
            return str(error)
        return ""

    raise schema_places.find(schema, refusal, reason)


def _grammar(schema: dict[str, Any]) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(
            orjson.dumps(schema).decode(), overrides=JSON_OPTIONS
        )
    except ValueError as error:
        raise CompileRefused(in_one_line(str(error))) from error


def _compile(tokens: LLTokenizer, grammar: str, limits: LLParserLimits) -> LLMatcher:
    matcher = LLMatcher(tokens, grammar, limits=limits, log_level=0)
    matcher.compute_bitmask()
    if reason := matcher.get_error():
        raise CompileRefused(in_one_line(reason))
    return matcher


def _follow(matcher: LLMatcher) -> None:
    """Some tokens of its own choice. Raises `CompileRefused`."""
    chance = random.Random(0)
    for _ in range(TRIAL_TOKENS):
        mask = _timed(matcher.compute_bitmask)
        allowed = [i for i, byte in enumerate(mask) if byte]
        if not allowed or matcher.is_stopped():
            return
        place = chance.choice(allowed)
        bits = [bit for bit in range(8) if mask[place] >> bit & 1]
        token_id = 8 * place + chance.choice(bits)
        _timed(lambda token_id=token_id: matcher.consume_token(token_id))  # type: ignore[misc]


def _timed(work: Callable[[], Any]) -> Any:
    began_s = time.thread_time()
    result = work()
    if time.thread_time() - began_s > MAX_MASK_S:
        raise CompileRefused("it takes too long to find out what may come next")
    return result


if __name__ == "__main__":
    main()
