"""Trained prefixes: the engine computes with one what PEFT does, and nobody is told of its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from modeling.artifacts import prefix as files
from serving.engine.engine import Engine
from serving.engine.failures import ContextLengthExceeded
from serving.engine.kv.prefix import KvPrefix
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from tests.serving.parts import GREEDY, choice, choices, load_model, make_engine, prompt_of
from text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def engine(base_path: Path, tokenizer: Tokenizer) -> Engine:
    return make_engine(base_path, tokenizer)


def of_text(base_path: Path, ids: list[int]) -> Tensor:
    """Keys and values (V, L, 2, kv heads, D) of a text."""
    model, cache = load_model(base_path, "sdpa"), DynamicCache()
    with torch.inference_mode():
        model(torch.tensor([ids]), past_key_values=cache)
    # Each (1, kv heads, V, D).
    layers = [torch.stack((key[0], value[0])) for key, value in layers_of(cache)]
    return torch.stack(layers).permute(3, 0, 1, 2, 4).clone()


def layers_of(cache: DynamicCache) -> Iterator[tuple[Tensor, Tensor]]:
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        yield layer.keys, layer.values


def drawn(num_tokens: int, seed: int) -> Tensor:
    return torch.randn(num_tokens, 2, 2, 2, 16, generator=torch.Generator().manual_seed(seed))


def prefix_of(id: str, keys_values: Tensor) -> KvPrefix:
    return KvPrefix.from_artifact(id, keys_values, torch.float32)


def request(
    prompt: list[int], prefix: KvPrefix | Adapter | None, salt: str = "", **options: int | None
) -> Generate:
    defaults: dict[str, int | None] = {"max_tokens": 12, "num_prompt_logprobs": None}
    values = {**defaults, **options}
    return Generate(
        prompt=prompt,
        adapter=prefix,
        sampling=GREEDY,
        cache_salt=salt,
        max_tokens=values["max_tokens"],
        num_prompt_logprobs=values["num_prompt_logprobs"],
    )


def peft_logprobs(base_path: Path, folder: Path, keys_values: Tensor, ids: list[int]) -> Tensor:
    """(T, V) of each token's successor, as who downloads the prefix computes them."""
    files.write(folder, files.artifact(keys_values, base_model="tiny-random"))
    peft = PeftModel.from_pretrained(load_model(base_path, "sdpa"), folder)
    with torch.inference_mode():
        logits: Tensor = peft(input_ids=torch.tensor([ids])).logits[0]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("num_tokens", [1, 8, 40, 200])
def test_a_prefix_computes_what_peft_does(
    engine: Engine, base_path: Path, tmp_path: Path, num_tokens: int
) -> None:
    keys_values = drawn(num_tokens, seed=num_tokens)
    prefix, prompt = prefix_of(f"peft-{num_tokens}", keys_values), prompt_of(30)
    scored = choice(engine, request(prompt, prefix, max_tokens=0, num_prompt_logprobs=0))
    assert scored.last.finish_reason == "length"
    # From its beginning in two ways, then with what the ones before have left.
    written = [choice(engine, request(prompt, prefix)) for _ in range(2)]
    assert written[0].ids == written[1].ids
    logprobs = peft_logprobs(base_path, tmp_path, keys_values, prompt + written[0].ids)
    assert logprobs[len(prompt) - 1 : -1].argmax(-1).tolist() == written[0].ids


@pytest.mark.parametrize("num_tokens", [8, 150])
def test_a_prompt_behind_a_prefix_is_as_probable_as_peft_finds_it(
    engine: Engine, base_path: Path, tmp_path: Path, num_tokens: int
) -> None:
    keys_values = drawn(num_tokens, seed=5)
    prefix, prompt = prefix_of(f"score-{num_tokens}", keys_values), prompt_of(300)
    deltas = list(engine.generate(request(prompt, prefix, max_tokens=0, num_prompt_logprobs=2)))
    (entries,) = [d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None]
    assert entries[0] is None
    logprobs = peft_logprobs(base_path, tmp_path, keys_values, prompt)
    expected = [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]
    assert [e.logprob for e in entries[1:] if e is not None] == pytest.approx(expected, abs=1e-5)


def test_a_prefix_that_is_a_text_is_that_text_in_context(engine: Engine, base_path: Path) -> None:
    text, prompt = prompt_of(24, seed=3), prompt_of(20)
    prefix = prefix_of("text", of_text(base_path, text))
    behind = choice(engine, request(prompt, prefix))
    assert behind.ids == choice(engine, request(text + prompt, None)).ids
    assert behind.ids != choice(engine, request(prompt, None)).ids


def test_prefixes_adapters_and_base_are_computed_side_by_side_and_share_nothing(
    engine: Engine, adapters: list[Adapter]
) -> None:
    tuned = [None, *adapters, prefix_of("a", drawn(20, 1)), prefix_of("b", drawn(20, 2))]
    requests = [
        request(prompt_of(200), one, salt) for one in tuned for salt in ("x", "y") for _ in "12"
    ]
    alone = [choice(engine, one).ids for one in requests]
    assert len({tuple(ids) for ids in alone}) == len(tuned)
    together = choices(make_engine_like(engine), requests)
    assert [one.ids for one in together] == alone
    for number, one in enumerate(together):
        is_second = number % 2 == 1
        assert (one.usage.cached_tokens > 0) == is_second


def make_engine_like(engine: Engine) -> Engine:
    """Nothing is in its memory for keys and values yet."""
    return Engine(
        load_model(Path(engine.model.config._name_or_path)),
        engine._tokenizer,
        num_slots=4,
        kv_bytes=16384 * 512,
        max_seq_len=2048,
    )


@pytest.mark.parametrize("num_tokens", [8, 40, 200])
def test_usage_counts_the_text_alone_and_the_context_is_shorter(
    engine: Engine, num_tokens: int
) -> None:
    prefix, prompt = prefix_of(f"usage-{num_tokens}", drawn(num_tokens, 1)), prompt_of(30)
    first, second = (choice(engine, request(prompt, prefix)).usage for _ in range(2))
    assert (first.prompt_tokens, first.completion_tokens, first.cached_tokens) == (30, 12, 0)
    assert second.cached_tokens == 29
    with pytest.raises(ContextLengthExceeded) as caught:
        engine.prepare(request(prompt_of(2048 - num_tokens), prefix), lambda _: None)
    assert caught.value.max_seq_len == 2048 - num_tokens
    whole = engine.prepare(request(prompt, prefix, max_tokens=None), lambda _: None)
    assert whole.max_tokens == 2048 - num_tokens - 30


def test_a_pool_that_is_far_too_small_ends_every_request_behind_a_prefix(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    small = make_engine(base_path, tokenizer, kv_tokens=512)
    prefix = prefix_of("small", drawn(140, 1))
    requests = [request(prompt_of(60, seed=i), prefix, max_tokens=80) for i in range(3)]
    large = make_engine(base_path, tokenizer)
    expected = [choice(large, one).ids for one in requests]
    assert [one.ids for one in choices(small, requests)] == expected
    small.unload("small")
