"""The JSON Schema Test Suite, which the source distribution of jsonschema brings: schemas of every keyword with values that fit
and values that do not. What a reply can be held to admits none of the latter."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher

from serving.engine.constraints import Constraint, GrammarVocabulary
from serving.engine.grammar_limits import LIMITS
from serving.engine.limits import Limits
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import Generate
from serving.grammars.compiler import CompileRefused, grammar_of
from serving.grammars.schema_places import SchemaRefused
from serving.grammars.source import GrammarSource
from tests.conformance.suite import downloaded
from tests.serving.parts import choices, make_engine, prompt_of
from text.tokenizer import Tokenizer

from .test_corpus import BIAS, MAX_TOKENS

pytestmark = pytest.mark.slow

VERSION = "4.26.0"
SHA256 = "0c26707e2efad8aa1bfc5b7ce170f3fccc2e4918ff85989ba9ffa9facb2be326"
DRAFTS = ("draft2020-12", "draft7")
# What these say differs from draft to draft, or from one dialect of regular expressions to another.
OPTIONAL = ("content.json", "ecmascript-regex.json", "bignum.json")
Json = dict[str, Any]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Json]]:
    """Each with the draft that it is of."""
    folder = tmp_path_factory.mktemp("suite")
    try:
        sdist = downloaded("jsonschema", VERSION, SHA256, folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"pip could not download the sources of jsonschema {VERSION}: {error}")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return list(_read(folder / f"jsonschema-{VERSION}" / "json" / "tests"))


def _read(folder: Path) -> Iterator[tuple[str, Json]]:
    for draft in DRAFTS:
        for path in sorted((folder / draft).rglob("*.json")):
            if path.name not in OPTIONAL:
                read = json.loads(path.read_text())
                # A request's schema is an object.
                yield from ((draft, case) for case in read if isinstance(case["schema"], dict))


@pytest.fixture(scope="module")
def compiled(
    cases: list[tuple[str, Json]], grammar_vocabulary: GrammarVocabulary
) -> list[tuple[str, Json, str]]:
    """Those that a reply can be held to, with what is compiled of them."""
    found = []
    for draft, case in cases:
        try:
            source = GrammarSource.json_schema(case["schema"])
            grammar = grammar_of(grammar_vocabulary.tokens, source.kind, source.text)
        except (CompileRefused, SchemaRefused):
            continue
        found.append((draft, case, grammar))
    return found


def admits(vocabulary: GrammarVocabulary, grammar: str, value: Any) -> bool:
    matcher = LLMatcher(vocabulary.tokens, grammar, limits=LIMITS, log_level=0)
    ids = list(json.dumps(value, ensure_ascii=False).encode())
    if matcher.validate_tokens(ids) < len(ids):
        return False
    return matcher.consume_tokens(ids) and matcher.is_accepting()


def test_nothing_that_does_not_fit_can_be_said(
    cases: list[tuple[str, Json]],
    compiled: list[tuple[str, Json, str]],
    grammar_vocabulary: GrammarVocabulary,
) -> None:
    outcomes: Counter[tuple[bool, bool]] = Counter()
    wrong = []
    for _, case, grammar in compiled:
        for test in case["tests"]:
            is_admitted = admits(grammar_vocabulary, grammar, test["data"])
            outcomes[test["valid"], is_admitted] += 1
            if is_admitted and not test["valid"]:
                wrong.append((case["description"], test["description"], case["schema"]))
    assert wrong == []
    assert len(compiled) > len(cases) / 2
    # A few that fit are never said: with properties in another order, for example.
    assert outcomes[True, True] > 10 * outcomes[True, False]


def test_whatever_is_said_fits(
    compiled: list[tuple[str, Json, str]],
    base_path: Path,
    tokenizer: Tokenizer,
    grammar_vocabulary: GrammarVocabulary,
) -> None:
    engine = make_engine(
        base_path, tokenizer, kv_tokens=65536, limits=Limits(max_running=128, step_tokens=256)
    )
    requests = [
        Generate(
            prompt=prompt_of(4, number),
            max_tokens=MAX_TOKENS,
            sampling=SamplingParams(
                temperature=(0.7, 1.0, 2.0)[number % 3], logit_bias=BIAS, seed=number
            ),
            constraint=Constraint(grammar_vocabulary, grammar),
        )
        for number, (_, _, grammar) in enumerate(compiled)
    ]
    num_whole = 0
    for (draft, case, _), choice in zip(compiled, choices(engine, requests), strict=True):
        if choice.last.finish_reason == "stop":
            validators = {"draft7": jsonschema.Draft7Validator}
            validator = validators.get(draft, jsonschema.Draft202012Validator)
            validator(case["schema"]).validate(json.loads(choice.text))
            num_whole += 1
    assert num_whole > 0.8 * len(compiled)
