"""Replies held to a schema or a grammar, through the real client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.serving.server import HELLO, MODEL, Running, store_adapter

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": {"enum": ["spam", "no spam"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["label", "score", "words"],
    "additionalProperties": False,
}
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "mail", "schema": SCHEMA, "strict": True},
}
ENOUGH_TOKENS = 400


class Verdict(BaseModel):
    label: Literal["spam", "no spam"]
    score: int = Field(ge=0, le=10)
    reasons: list[Literal["links", "words"]] = Field(max_length=2)


async def test_a_reply_is_held_to_its_schema(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL, messages=HELLO, response_format=FORMAT, n=4, seed=7, max_tokens=ENOUGH_TOKENS,
        logprobs=True, top_logprobs=2,
    )  # fmt: skip
    texts = [choice.message.content or "" for choice in completion.choices]
    for choice, text in zip(completion.choices, texts, strict=True):
        jsonschema.validate(json.loads(text), SCHEMA)
        assert choice.finish_reason == "stop"
        assert choice.logprobs is not None
        entries = choice.logprobs.content or []
        assert "".join(bytes(entry.bytes or []).decode("latin-1") for entry in entries) == (
            text.encode().decode("latin-1")
        )
        # The model's own probabilities: what it would rather have said is among them.
        assert any(
            entry.token not in [top.token for top in entry.top_logprobs] for entry in entries
        )
    assert len(set(texts)) > 1


async def test_a_streamed_reply_is_the_whole_one(running: Running) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": HELLO,
        "response_format": FORMAT,
        "seed": 3,
        "n": 2,
        "max_tokens": ENOUGH_TOKENS,
        "frequency_penalty": 0.5,
        "logit_bias": {"34": 1},
    }
    whole = await running.openai.chat.completions.create(**asked)
    texts = ["", ""]
    reasons: list[str | None] = [None, None]
    async for chunk in await running.openai.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == ["stop", "stop"]
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


async def test_a_tuned_and_a_base_model_are_parsed_whole_and_streamed(
    running: Running, base_path: Path, tmp_path: Path
) -> None:
    ref = store_adapter(running, base_path, tmp_path / "adapter", "adapter-parsed")
    for model, headers in ((MODEL, {}), (ref.id, running.headers(ref))):
        asked: dict[str, Any] = {
            "model": model,
            "messages": HELLO,
            "response_format": Verdict,
            "extra_headers": headers,
            "max_tokens": ENOUGH_TOKENS,
            "seed": 1,
        }
        parsed = await running.openai.chat.completions.parse(**asked)
        verdict = parsed.choices[0].message.parsed
        assert isinstance(verdict, Verdict)
        async with running.openai.chat.completions.stream(**asked) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.parsed == verdict


async def test_any_object_where_that_is_asked(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        response_format={"type": "json_object"},
        max_tokens=ENOUGH_TOKENS,
        # A random model would hardly ever end it by itself.
        logit_bias={str(ord("}")): 20, str(ord('"')): 20},
    )
    assert isinstance(json.loads(completion.choices[0].message.content or ""), dict)
    assert completion.choices[0].finish_reason == "stop"


async def test_what_is_cut_off_says_so(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL, messages=HELLO, response_format=FORMAT, max_tokens=5
    )
    assert completion.choices[0].finish_reason == "length"


GRAMMARS: list[tuple[dict[str, Any], str]] = [
    ({"type": "regex", "definition": "(yes|no)!"}, r"(yes|no)!"),
    ({"type": "lark", "definition": 'start: "a" b\nb: /[xy]{2}/ %json {"enum": [1, 23]}'}, r"a[xy]{2}(1|23)"),
    ({"type": "lark", "definition": "start: <|im_start|> /[a-c]/"}, r"<\|im_start\|>[a-c]"),
    ({"type": "json_schema", "definition": {"type": "boolean"}}, r"true|false"),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "pattern"), GRAMMARS)
async def test_grammars_of_luthiers_own_in_both_endpoints(
    running: Running, grammar: dict[str, Any], pattern: str
) -> None:
    body = {"luthier": {"grammar": grammar}}
    chat = await running.openai.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body=body
    )
    text = await running.openai.completions.create(
        model=MODEL, prompt=["a", "b"], n=2, max_tokens=100, extra_body=body
    )
    replies = [chat.choices[0].message.content or "", *(choice.text for choice in text.choices)]
    assert len(replies) == 5
    for reply in replies:
        assert re.fullmatch(pattern, reply), reply


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
         "missing_required_parameter", "Missing required parameter"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"properties": {"b": {"not": {}}}}}}},
         "response_format", "invalid_json_schema",
         "Invalid schema for response_format 'a': In context=('properties', 'b'), 'not' is not permitted"),
        ({"luthier": {"grammar": {"type": "regex", "definition": "(a"}}}, "luthier.grammar", "invalid_grammar", "unclosed group"),
        ({"luthier": {"grammar": {"type": "lark", "definition": "start: b"}}}, "luthier.grammar", "invalid_grammar", 'unknown name: "b"'),
        ({"luthier": {"grammar": {"type": "lark", "definition": {}}}}, "luthier.grammar.definition", "invalid_type", "a string"),
        ({"luthier": {"grammar": {"type": "json_schema", "definition": "a"}}}, "luthier.grammar.definition", "invalid_type", "an object"),
        ({"luthier": {"grammar": {"type": "peg", "definition": "a"}}}, "luthier.grammar.type", "invalid_value", "Supported values"),
        ({"luthier": {"gramar": {}}}, "luthier.gramar", "unknown_parameter", "Unknown parameter"),
        ({"luthier": {"grammar": {"type": "regex", "definition": "a" * 300_000}}}, "luthier.grammar", "grammar_too_large", "300000 bytes"),
        ({"luthier": {"grammar": {"type": "regex", "definition": "a"}}, "response_format": {"type": "json_object"}}, "luthier.grammar", None, "cannot both"),
    ],
)  # fmt: skip
async def test_what_a_reply_cannot_be_held_to_is_refused_by_name(
    running: Running, body: dict[str, Any], param: str, code: str | None, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await running.openai.chat.completions.create(model=MODEL, messages=HELLO, extra_body=body)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert words in str(caught.value)


async def test_a_client_that_leaves_takes_its_choices_along(running: Running) -> None:
    stream = await running.openai.chat.completions.create(
        model=MODEL, messages=HELLO, response_format=FORMAT, n=8, stream=True, max_tokens=1000
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await running.until(lambda: running.served.thread.is_idle and running.served.engine.is_idle)
