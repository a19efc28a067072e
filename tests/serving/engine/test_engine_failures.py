"""What goes wrong with one sequence is that sequence's trouble alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundation.errors import LuthierError
from serving.engine.engine import MAX_FAILURES, Engine
from serving.engine.failures import EngineStopped, NotFinite
from serving.engine.sampling import SamplingParams
from serving.engine.schedule import Work
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from tests.serving.parts import (
    GREEDY,
    TIMEOUT_S,
    collect,
    expected_ids,
    greedy,
    prompt_of,
    running_engine,
)
from text.tokenizer import Tokenizer


async def test_a_model_whose_output_is_not_finite_fails_alone(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    huge = Adapter(
        "adapter-huge", {n: (a * 1e25, b * 1e25) for n, (a, b) in adapters[1].pairs.items()}
    )
    prompts = [prompt_of(20 + 30 * i, i) for i in range(4)]
    async with running_engine(base_path, tokenizer) as engine:
        found = await asyncio.gather(
            *(greedy(engine, prompt) for prompt in prompts),
            *(
                collect(
                    engine,
                    Generate(
                        prompt=prompt, adapter=huge, sampling=sampling, num_prompt_logprobs=num
                    ),
                )
                for prompt in prompts
                for sampling in (GREEDY, SamplingParams(temperature=1.0))
                for num in (None, 1)
            ),
            return_exceptions=True,
        )
        assert engine.is_alive
        # Nothing of it is left where the next one computes.
        again = [await greedy(engine, prompt) for prompt in prompts]
        assert await engine.unload("adapter-huge")
    expected = [expected_ids(base_path, prompt) for prompt in prompts]
    assert [ids for ids, _ in found[:4]] == expected  # type: ignore[misc]
    assert {type(error) for error in found[4:]} == {NotFinite}
    assert [ids for ids, _ in again] == expected


async def test_a_sequence_that_breaks_a_step_fails_alone(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = prompt_of(33, 99)
    forward = Engine._forward

    def fail(engine: Engine, work: list[Work]) -> Tensor:
        if any(item.sequence.request.prompt == poison for item in work):
            raise RuntimeError("out of luck")
        return forward(engine, work)

    monkeypatch.setattr(Engine, "_forward", fail)
    prompts = [prompt_of(20 + 30 * i, i) for i in range(3)]
    async with running_engine(base_path, tokenizer) as engine:
        broken = asyncio.create_task(greedy(engine, poison))
        found = await asyncio.gather(*(greedy(engine, prompt) for prompt in prompts))
        with pytest.raises(LuthierError, match="failed at this request"):
            await broken
    assert [ids for ids, _ in found] == [expected_ids(base_path, prompt) for prompt in prompts]


async def test_many_broken_choices_of_one_request_do_not_end_the_engine(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Engine._forward

    def fail(engine: Engine, work: list[Work]) -> Tensor:
        if any(item.sequence.project == "broken" for item in work):
            raise RuntimeError("out of luck")
        return forward(engine, work)

    monkeypatch.setattr(Engine, "_forward", fail)
    async with running_engine(base_path, tokenizer) as engine:
        broken = [
            asyncio.create_task(greedy(engine, prompt_of(5, seed), cache_salt="broken"))
            for seed in range(3 * MAX_FAILURES)
        ]
        found, _ = await greedy(engine, prompt_of(20))
        errors = await asyncio.gather(*broken, return_exceptions=True)
        assert engine.is_alive
    assert found == expected_ids(base_path, prompt_of(20))
    assert {type(error) for error in errors} == {LuthierError}


async def test_an_adapter_that_cannot_be_put_into_a_slot_fails_alone(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    """Not even its first layers are left to be taken for the whole of it."""
    *others, (last, (left, _)) = adapters[1].pairs.items()
    misshapen = Adapter("adapter-c", {**dict(others), last: (left, torch.zeros(1, 3))})
    prompt = prompt_of(20)
    async with running_engine(base_path, tokenizer) as engine:
        await greedy(engine, prompt, adapter=adapters[1])
        results = await asyncio.gather(
            greedy(engine, prompt),
            greedy(engine, prompt, adapter=misshapen),
            greedy(engine, prompt, adapter=misshapen),
            return_exceptions=True,
        )
        assert engine.is_alive
        assert engine.stats().loaded_adapter_ids == ("adapter-b",)
        found, _ = await greedy(engine, prompt, adapter=adapters[1])
    assert [type(result) for result in results] == [tuple, LuthierError, LuthierError]
    assert found == expected_ids(base_path, prompt, adapter=adapter_folders[1])


async def test_an_engine_at_which_everything_fails_ends(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(base_path, tokenizer) as engine:
        request = Generate(prompt=prompt_of(5), max_tokens=1500, sampling=GREEDY)
        monkeypatch.setattr(Engine, "_forward", _fail)
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(MAX_FAILURES - 1):
                with pytest.raises(LuthierError, match="failed at this request"):
                    await collect(engine, request)
                assert engine.is_alive
            with pytest.raises(LuthierError, match="failed") as caught:
                await collect(engine, request)
            assert caught.value.status == 500
            while engine.is_alive:
                await asyncio.sleep(0.001)
        with pytest.raises(EngineStopped):
            await collect(engine, Generate(prompt=prompt_of(5)))


def _fail(*_: object) -> None:
    raise RuntimeError("out of luck")
