"""Heads: the engine computes with one what a classifier of transformers does, beside all that it computes otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from modeling.artifacts import classifier, lora
from modeling.artifacts import head as head_files
from serving.engine.engine import Engine
from serving.engine.failures import ContextLengthExceeded, InvalidPrompt, NotFinite
from serving.engine.heads import Head
from serving.engine.sequence import Generate, Pool
from serving.engine.slots.lora import Adapter
from tests.serving.parts import (
    Choice,
    choice,
    choices,
    greedy,
    load_model,
    make_engine,
    outcomes,
    prompt_of,
    write_classifier,
)
from text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def engine(base_path: Path, tokenizer: Tokenizer) -> Engine:
    return make_engine(base_path, tokenizer)


@pytest.fixture(scope="module")
def folder(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(base_path, tmp_path_factory.mktemp("head") / "c", ["x", "y", "z"])


@pytest.fixture(scope="module")
def headed(base_path: Path, folder: Path) -> tuple[Adapter, Head]:
    config = load_model(base_path, "sdpa").config
    artifact = classifier.read(folder, config)
    layers = lora.layers(head_files.adapter_of(artifact))
    adapter = Adapter.from_layers("headed", layers, lora.linear_shapes(config), torch.float32)
    return adapter, Head(artifact.tensors[head_files.SCORE])


def transformers_logits(
    base_path: Path, folder: Path, prompts: list[list[int]]
) -> list[list[float]]:
    """As who downloads the classifier computes them."""
    base = AutoModelForSequenceClassification.from_pretrained(
        base_path, num_labels=3, dtype=torch.float32
    )
    # It reads the last token that is not this one.
    base.config.pad_token_id = 261
    model = PeftModel.from_pretrained(base, folder).eval()
    with torch.inference_mode():
        return [model(torch.tensor([ids])).logits[0].tolist() for ids in prompts]


def pooled(found: Choice) -> list[float]:
    (values,) = [delta.pooled for delta in found.deltas if delta.pooled is not None]
    return values


def test_a_head_reads_what_a_classifier_of_transformers_reads(
    engine: Engine, base_path: Path, folder: Path, headed: tuple[Adapter, Head]
) -> None:
    adapter, head = headed
    # The second begins as the first, whose keys and values are there; the last one takes several steps.
    first = prompt_of(80)
    prompts = [first, [*first[:60], 7, 8], [5], prompt_of(1500, seed=2)]
    expected = transformers_logits(base_path, folder, prompts)
    for prompt, logits in zip(prompts, expected, strict=True):
        found = choice(engine, Pool(prompt, head, adapter))
        assert pooled(found) == pytest.approx(logits, abs=2e-4)
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(prompt), 0)
        assert found.last.finish_reason == "length"
    again = choice(engine, Pool(first, head, adapter))
    assert again.usage.cached_tokens >= 60
    assert pooled(again) == pytest.approx(expected[0], abs=2e-4)


def test_heads_of_several_models_and_what_writes_are_computed_side_by_side(
    engine: Engine, headed: tuple[Adapter, Head], adapters: list[Adapter]
) -> None:
    adapter, head = headed
    of_base = Head(torch.randn(1, 64, generator=torch.Generator().manual_seed(1)))
    requests: list[Generate | Pool] = []
    for seed in range(4):
        prompt = prompt_of(40 + 30 * seed, seed)
        requests += [
            greedy(prompt, adapter=adapters[seed % 2]),
            Pool(prompt, head, adapter),
            greedy(prompt),
            Pool(prompt, of_base),
            Pool(prompt, head, adapters[0], "another project"),
        ]
    together = choices(engine, requests)
    for request, found in zip(requests, together, strict=True):
        alone = choice(engine, request)
        if isinstance(request, Pool):
            assert len(pooled(found)) == len(request.head.weight)
            assert pooled(found) == pytest.approx(pooled(alone), abs=1e-4)
        else:
            assert found.ids == alone.ids
    assert engine.is_idle


def test_a_head_that_overflows_ends_its_own_text_alone(
    engine: Engine, headed: tuple[Adapter, Head]
) -> None:
    adapter, head = headed
    broken = Head(torch.full((2, 64), float("inf")))
    prompt = prompt_of(30)
    found = outcomes(engine, [Pool(prompt, broken), Pool(prompt, head, adapter), greedy(prompt)])
    assert isinstance(found[0], NotFinite)
    assert isinstance(found[1], Choice)
    assert isinstance(found[2], Choice)
    assert len(pooled(found[1])) == 3


def test_texts_that_cannot_be_read_are_refused(
    engine: Engine, headed: tuple[Adapter, Head]
) -> None:
    _, head = headed
    for prompt, error in (([], InvalidPrompt), ([10**6], InvalidPrompt)):
        with pytest.raises(error):
            engine.prepare(Pool(prompt, head), lambda _: None)
    with pytest.raises(ContextLengthExceeded):
        engine.prepare(Pool(prompt_of(2049), head), lambda _: None)
