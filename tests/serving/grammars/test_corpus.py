"""A random model that is held to schemas says nothing else, whatever the schema and however it is sampled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from serving.engine.constraints import GrammarVocabulary
from serving.engine.limits import Limits
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from tests.serving.grammars import compiled
from tests.serving.grammars.schemas import WRITTEN, made_up
from tests.serving.parts import choices, make_engine, prompt_of
from text.tokenizer import Tokenizer

NUM_MADE_UP = 150
MAX_TOKENS = 120
# A random model would spend its tokens on white space and on strings.
BIAS = {**dict.fromkeys(b" \n\t", -8.0), **dict.fromkeys(b'"}]', 3.0)}


def check(schema: dict[str, Any], text: str) -> None:
    of_draft = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    of_draft(schema, format_checker=of_draft.FORMAT_CHECKER).validate(json.loads(text))


def params(number: int) -> SamplingParams:
    """Of all sorts; greedy ones, too."""
    return SamplingParams(
        temperature=(0.0, 0.7, 1.0, 2.0)[number % 4],
        top_p=(1.0, 0.9, 0.3)[number % 3],
        frequency_penalty=(0.0, 0.5)[number % 2],
        presence_penalty=(0.0, 0.0, 1.0)[number % 3],
        logit_bias=BIAS,
        seed=number,
        num_logprobs=(None, 2)[number % 2],
    )


def test_every_reply_fits_its_schema(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    schemas = [*WRITTEN, *map(made_up, range(NUM_MADE_UP))]
    assert len(schemas) > 200
    engine = make_engine(
        base_path, tokenizer, kv_tokens=65536, limits=Limits(max_running=128, step_tokens=256)
    )
    requests = [
        Generate(
            prompt=prompt_of(4, number),
            max_tokens=MAX_TOKENS,
            sampling=params(number),
            constraint=compiled.of_schema(grammar_vocabulary, schema),
        )
        for number, schema in enumerate(schemas)
    ]
    found = choices(engine, requests)
    num_whole = 0
    for schema, choice in zip(schemas, found, strict=True):
        if choice.last.finish_reason == "stop":
            check(schema, choice.text)
            num_whole += 1
        else:
            assert choice.usage.completion_tokens == MAX_TOKENS
    assert num_whole > 0.9 * len(schemas)
