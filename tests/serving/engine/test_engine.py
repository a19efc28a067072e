from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from foundation.errors import InvalidRequest
from serving.engine.failures import ContextLengthExceeded, EngineStopped, Overloaded
from serving.engine.sampling import SamplingParams
from serving.engine.schedule import Limits, Scheduler
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from tests.serving.parts import (
    GREEDY,
    TIMEOUT_S,
    collect,
    expected_ids,
    greedy,
    load_model,
    prompt_of,
    read_adapter,
    running_engine,
    write_adapter,
)
from text.tokenizer import Tokenizer


async def test_base_and_adapters_in_one_batch_say_what_peft_says(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    cases = [
        (prompt_of(length, seed), number)
        for seed, length in enumerate((1, 40, 300))
        for number in (None, 0, 1)
    ]
    async with running_engine(base_path, tokenizer) as engine:
        found = await asyncio.gather(
            *(
                greedy(engine, prompt, adapter=None if number is None else adapters[number])
                for prompt, number in cases
            )
        )
        assert engine.stats().num_steps < 60  # they did run side by side
    expected = [
        expected_ids(base_path, prompt, adapter=None if number is None else adapter_folders[number])
        for prompt, number in cases
    ]
    assert [ids for ids, _ in found] == expected
    # The adapters do change what is said, or this test would show nothing.
    assert len({tuple(ids) for ids in expected[-3:]}) == 3


async def test_sequences_that_join_at_different_steps_do_not_disturb_each_other(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    prompts = [prompt_of(30 + 50 * i, seed=i) for i in range(3)]
    async with running_engine(base_path, tokenizer) as engine:
        tasks = []
        for i, prompt in enumerate(prompts):
            before = engine.stats().num_steps
            tasks.append(
                asyncio.create_task(
                    greedy(engine, prompt, max_tokens=24, adapter=adapters[1] if i % 2 else None)
                )
            )
            async with asyncio.timeout(TIMEOUT_S):
                while engine.stats().num_steps < before + 3:
                    await asyncio.sleep(0.001)
        found = [ids for ids, _ in await asyncio.gather(*tasks)]
    assert found == [
        expected_ids(
            base_path, prompt, max_tokens=24, adapter=adapter_folders[1] if i % 2 else None
        )
        for i, prompt in enumerate(prompts)
    ]


async def test_reused_prefix_gives_the_same_output(base_path: Path, tokenizer: Tokenizer) -> None:
    prefix = prompt_of(400)
    prompts = [[*prefix, *prompt_of(20, seed)] for seed in range(1, 7)]
    async with running_engine(base_path, tokenizer) as engine:
        found = await asyncio.gather(*(greedy(engine, prompt) for prompt in prompts))
        again, usage = await greedy(engine, prompts[0])
        num_computed = engine.stats().num_computed_tokens
    assert [ids for ids, _ in found] == [expected_ids(base_path, prompt) for prompt in prompts]
    assert again == found[0][0]
    assert usage.cached_tokens == len(prompts[0]) - 1
    # The prefix was read once, although all requests came at the same time.
    assert num_computed < 400 + 6 * (20 + 16) + 20


async def test_adapters_and_tenants_never_share_a_prefix(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    prompt = prompt_of(300)
    callers: list[tuple[Adapter | None, str]] = [
        (None, ""),
        (None, "proj_a"),
        (adapters[0], ""),
        (adapters[0], "proj_a"),
        (adapters[1], ""),
    ]
    async with running_engine(base_path, tokenizer) as engine:
        found = [
            await greedy(engine, prompt, adapter=adapter, cache_salt=salt)
            for adapter, salt in callers
        ]
        again = [
            await greedy(engine, prompt, adapter=adapter, cache_salt=salt)
            for adapter, salt in callers
        ]
    assert [usage.cached_tokens for _, usage in found] == [0] * 5
    assert [usage.cached_tokens for _, usage in again] == [299] * 5
    assert [ids for ids, _ in again] == [ids for ids, _ in found]
    base, a, b = (
        expected_ids(base_path, prompt, adapter=folder) for folder in (None, *adapter_folders)
    )
    assert [ids for ids, _ in found] == [base, base, a, a, b]


async def test_more_adapters_than_slots_all_get_their_turn(
    base_path: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folders = [write_adapter(base_path, tmp_path / str(i), rank=2 + i, seed=i) for i in range(6)]
    loaded = [read_adapter(base_path, f, f"adapter-{i}") for i, f in enumerate(folders)]
    prompt = prompt_of(20)
    async with running_engine(base_path, tokenizer, num_slots=2) as engine:
        found = await asyncio.gather(
            *(greedy(engine, prompt, adapter=loaded[i % 6]) for i in range(18))
        )
        assert len(engine.stats().loaded_adapter_ids) == 2
    expected = [expected_ids(base_path, prompt, adapter=folder) for folder in folders]
    assert [ids for ids, _ in found] == expected * 3


async def test_rows_that_outgrow_the_memory_give_way_and_finish(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    prompts = [prompt_of(100, seed) for seed in range(3)]
    async with running_engine(base_path, tokenizer, kv_tokens=256) as engine:
        assert engine.max_seq_len == 256
        found = await asyncio.gather(*(greedy(engine, p, max_tokens=60) for p in prompts))
    assert [ids for ids, _ in found] == [expected_ids(base_path, p, max_tokens=60) for p in prompts]


async def test_seed_decides_whatever_else_runs(base_path: Path, tokenizer: Tokenizer) -> None:
    def request(seed: int, choice: int = 0) -> Generate:
        sampling = SamplingParams(temperature=1.0, top_p=0.95, seed=seed, choice=choice)
        return Generate(prompt=prompt_of(20), max_tokens=30, sampling=sampling)

    async with running_engine(base_path, tokenizer) as engine:
        alone, _, _ = await collect(engine, request(11))
        crowd = await asyncio.gather(
            *(collect(engine, request(seed)) for seed in (11, 12, 13)),
            collect(engine, request(11, choice=1)),
        )
    assert crowd[0][0] == alone
    assert len({tuple(ids) for ids, _, _ in crowd}) == 4


async def test_stop_string_ends_the_text_before_it(base_path: Path, tokenizer: Tokenizer) -> None:
    prompt = prompt_of(20, seed=3)
    async with running_engine(base_path, tokenizer) as engine:
        _, text, _ = await collect(engine, Generate(prompt=prompt, max_tokens=60, sampling=GREEDY))
        stop = text[20:24]
        request = Generate(prompt=prompt, max_tokens=60, sampling=GREEDY, stop=(stop,))
        _, stopped, last = await collect(engine, request)
    assert stopped == text[: text.index(stop)]
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens < 60


async def test_end_token_ends_the_choice(base_path: Path, tokenizer: Tokenizer) -> None:
    (eos_id,) = tokenizer.eos_ids
    sampling = SamplingParams(temperature=0.0, logit_bias={eos_id: 100.0})
    async with running_engine(base_path, tokenizer) as engine:
        request = Generate(prompt=prompt_of(5), max_tokens=10, sampling=sampling)
        ids, text, last = await collect(engine, request)
    assert (ids, text, last.finish_reason) == ([], "", "stop")


async def test_prompt_logprobs_are_those_of_the_model(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    prompt = prompt_of(300)
    model = load_model(base_path, "sdpa")
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    async with running_engine(base_path, tokenizer) as engine:
        # With the prefix at hand, everything is computed again nonetheless.
        await greedy(engine, prompt)
        for max_tokens in (0, 1):
            request = Generate(
                prompt=prompt, max_tokens=max_tokens, sampling=GREEDY, num_prompt_logprobs=2
            )
            async with asyncio.timeout(TIMEOUT_S):
                deltas = [delta async for delta in engine.generate(request)]
            entries = deltas[0].prompt_logprobs
            assert entries is not None
            assert len(entries) == 300
            assert entries[0] is None
            for position, entry in enumerate(entries[1:], start=1):
                assert entry is not None
                expected = float(logprobs[position - 1, prompt[position]])
                assert entry.logprob == pytest.approx(expected, abs=1e-4)
                assert [i for i, _ in entry.top] == logprobs[position - 1].topk(2).indices.tolist()
            assert deltas[-1].finish_reason == "length"


async def test_no_tokens_wanted_gives_an_empty_choice(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    async with running_engine(base_path, tokenizer) as engine:
        ids, text, last = await collect(engine, Generate(prompt=prompt_of(5), max_tokens=0))
    assert (ids, text, last.finish_reason) == ([], "", "length")


async def test_context_is_filled_where_no_limit_is_given(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    async with running_engine(base_path, tokenizer, max_seq_len=64) as engine:
        sampling = SamplingParams(
            temperature=0.0, logit_bias=dict.fromkeys(tokenizer.eos_ids, -100.0)
        )
        request = Generate(prompt=prompt_of(60), sampling=sampling)
        _, _, last = await collect(engine, request)
    assert last.usage is not None
    assert (last.finish_reason, last.usage.completion_tokens) == ("length", 4)


async def test_request_beyond_the_context_is_refused(base_path: Path, tokenizer: Tokenizer) -> None:
    async with running_engine(base_path, tokenizer, max_seq_len=64) as engine:
        for prompt_tokens, max_tokens in ((64, None), (60, 5), (100, 0)):
            request = Generate(prompt=prompt_of(prompt_tokens), max_tokens=max_tokens)
            with pytest.raises(ContextLengthExceeded, match="maximum context length is 64"):
                await collect(engine, request)


@pytest.mark.parametrize("prompt", [[], [-1], [3, 259]])
async def test_token_ids_that_the_model_does_not_have_are_refused(
    base_path: Path, tokenizer: Tokenizer, prompt: list[int]
) -> None:
    async with running_engine(base_path, tokenizer) as engine:
        with pytest.raises(InvalidRequest, match="token ids"):
            await collect(engine, Generate(prompt=prompt))


async def test_cancelled_request_frees_everything(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    limits = Limits(max_running=1)
    async with running_engine(base_path, tokenizer, limits=limits) as engine:
        request = Generate(
            prompt=prompt_of(5), max_tokens=1000, adapter=adapters[0], sampling=GREEDY
        )
        running, waiting = engine.generate(request), engine.generate(request)
        await anext(running)
        pending = asyncio.ensure_future(anext(waiting))
        async with asyncio.timeout(TIMEOUT_S):
            while engine.stats().num_waiting == 0:
                await asyncio.sleep(0.001)
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await running.aclose()  # type: ignore[attr-defined]
            while engine.stats().num_running or engine.stats().num_waiting:
                await asyncio.sleep(0.001)
        assert await engine.unload("adapter-a")
        assert engine.stats().num_kv_tokens_used == 0


async def test_unloading_forgets_slot_and_prefixes(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    prompt = prompt_of(100)
    async with running_engine(base_path, tokenizer) as engine:
        await greedy(engine, prompt, adapter=adapters[0])
        assert await engine.unload("adapter-a")
        assert engine.stats().loaded_adapter_ids == ()
        _, usage = await greedy(engine, prompt, adapter=adapters[0])
    assert usage.cached_tokens == 0


async def test_more_sequences_than_a_project_may_have_are_refused(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    limits = Limits(max_running=1, max_open=3, max_open_per_project=2)
    async with running_engine(base_path, tokenizer, limits=limits) as engine:
        request = Generate(prompt=prompt_of(5), max_tokens=1500, sampling=GREEDY, cache_salt="a")
        tasks = [asyncio.create_task(collect(engine, request)) for _ in range(2)]
        async with asyncio.timeout(TIMEOUT_S):
            while engine.stats().num_waiting == 0:
                await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="limit of 2"):
            engine.check_room("a", 1)
        with pytest.raises(InvalidRequest, match=r"asks for 3 completions.*At most 2"):
            engine.check_room("b", 3)
        # Others may come, up to an equal share of the whole.
        engine.check_room("b", 1)
        with pytest.raises(Overloaded, match="waiting"):
            engine.check_room("b", 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engine.check_room("a", 2)


async def test_requests_that_were_let_in_at_once_are_not_refused_in_the_middle(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    """Two requests of two choices each pass the door before either of them has begun."""
    async with running_engine(
        base_path, tokenizer, limits=Limits(max_open_per_project=3)
    ) as engine:
        for _ in range(2):
            engine.check_room("a", 2)
        request = Generate(prompt=prompt_of(5), max_tokens=4, sampling=GREEDY, cache_salt="a")
        await asyncio.gather(*(collect(engine, request) for _ in range(4)))
        engine.check_room("a", 3)


async def test_the_scheduler_hears_how_long_each_step_took(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, float]] = []
    monkeypatch.setattr(Scheduler, "note_step", lambda _, *step: steps.append(step))
    async with running_engine(base_path, tokenizer) as engine:
        await greedy(engine, prompt_of(300), max_tokens=3)
        assert [num_tokens for num_tokens, _ in steps] == [256, 44, 1, 1]
        assert all(took_s > 0 for _, took_s in steps)


async def test_closing_fails_open_requests(base_path: Path, tokenizer: Tokenizer) -> None:
    async with running_engine(base_path, tokenizer) as engine:
        stream = engine.generate(Generate(prompt=prompt_of(5), max_tokens=1500, sampling=GREEDY))
        await anext(stream)
        await engine.close()
        with pytest.raises(EngineStopped, match="shutting down"):
            async for _ in stream:
                pass
