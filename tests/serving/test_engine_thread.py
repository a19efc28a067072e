from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from foundation.errors import InvalidRequest
from serving.admission import Overloaded
from serving.engine.engine import MAX_FAILURES, Engine
from serving.engine.failures import (
    ContextLengthExceeded,
    EngineStopped,
    NotFinite,
    SequenceFailed,
)
from serving.engine.limits import Limits
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from serving.engine_thread import EngineThread
from serving.quotas import Quotas
from tests.serving.parts import (
    TIMEOUT_S,
    expected_ids,
    generated,
    greedy,
    huge,
    make_engine,
    prompt_of,
    running_thread,
)
from text.tokenizer import Tokenizer


@pytest.fixture
async def thread(base_path: Path, tokenizer: Tokenizer) -> AsyncIterator[EngineThread]:
    async with running_thread(make_engine(base_path, tokenizer)) as it:
        yield it


async def until_idle(engine: Engine) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not engine.is_idle:
            await asyncio.sleep(0.001)


async def test_choices_of_several_requests_come_side_by_side(
    thread: EngineThread, base_path: Path
) -> None:
    prompts = [prompt_of(20 + 50 * i, i) for i in range(4)]
    one, *others = await asyncio.gather(
        generated(thread, *map(greedy, prompts)), *(generated(thread, greedy(p)) for p in prompts)
    )
    expected = [expected_ids(base_path, prompt) for prompt in prompts]
    assert [choice.ids for choice in one] == expected
    assert [choice.ids for (choice,) in others] == expected


async def test_choices_come_as_they_are_ready(thread: EngineThread) -> None:
    requests = [greedy(prompt_of(5), max_tokens=n) for n in (60, 0, 3)]
    ended = [
        index async for index, delta in thread.generate(requests) if delta.finish_reason is not None
    ]
    assert ended == [1, 2, 0]


async def test_what_cannot_be_taken_is_refused_at_once_and_whole(thread: EngineThread) -> None:
    with pytest.raises(ContextLengthExceeded):
        thread.generate([greedy(prompt_of(5)), greedy(prompt_of(3000))])
    await generated(thread, greedy(prompt_of(5)))
    assert thread.engine.stats().num_computed_tokens == 5 + 15


async def test_a_choice_that_fails_ends_the_others_of_its_request(
    thread: EngineThread, adapters: list[Adapter]
) -> None:
    too_large = huge(adapters[1])
    with pytest.raises(NotFinite):
        await generated(
            thread,
            greedy(prompt_of(5), max_tokens=1500),
            greedy(prompt_of(5), adapter=too_large),
        )
    await until_idle(thread.engine)


async def test_cancelled_requests_free_everything(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    engine = make_engine(base_path, tokenizer, limits=Limits(max_running=1))
    async with running_thread(engine) as thread:
        request = greedy(prompt_of(5), max_tokens=1000, adapter=adapters[0])
        running, waiting = thread.generate([request]), thread.generate([request])
        await anext(running)
        pending = asyncio.ensure_future(anext(waiting))
        async with asyncio.timeout(TIMEOUT_S):
            while engine.stats().num_waiting == 0:
                await asyncio.sleep(0.001)
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await running.aclose()
        await until_idle(engine)
        await thread.unload("adapter-a")
        assert engine.stats().num_kv_tokens_used == 0


async def test_more_sequences_than_a_project_may_have_are_refused(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    engine = make_engine(base_path, tokenizer, limits=Limits(max_running=1))
    async with running_thread(engine, Quotas(max_open=3, max_open_per_project=2)) as thread:
        request = greedy(prompt_of(5), max_tokens=1500, cache_salt="a")
        tasks = [asyncio.create_task(generated(thread, request)) for _ in range(2)]
        async with asyncio.timeout(TIMEOUT_S):
            while engine.stats().num_waiting == 0:
                await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match="limit of 2"):
            thread.check_room("a", 1)
        with pytest.raises(InvalidRequest, match=r"asks for 3 completions.*At most 2"):
            thread.check_room("b", 3)
        # Others may come, up to an equal share of the whole.
        thread.check_room("b", 1)
        with pytest.raises(Overloaded, match="waiting"):
            thread.check_room("b", 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        thread.check_room("a", 2)


async def test_requests_that_were_let_in_at_once_are_not_refused_in_the_middle(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    """Two requests of two choices each pass the door before either of them has begun."""
    engine = make_engine(base_path, tokenizer)
    async with running_thread(engine, Quotas(max_open_per_project=3)) as thread:
        for _ in range(2):
            thread.check_room("a", 2)
        request = greedy(prompt_of(5), max_tokens=4, cache_salt="a")
        await asyncio.gather(*(generated(thread, request, request) for _ in range(2)))
        thread.check_room("a", 3)


async def test_closing_fails_open_requests(thread: EngineThread) -> None:
    stream = thread.generate([greedy(prompt_of(5), max_tokens=1500)])
    await anext(stream)
    await thread.close()
    with pytest.raises(EngineStopped, match="closed"):
        async for _ in stream:
            pass
    with pytest.raises(EngineStopped, match="closed"):
        thread.check_room("", 1)


async def test_an_engine_at_which_everything_fails_ends(
    thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    request = greedy(prompt_of(5), max_tokens=1500)
    monkeypatch.setattr(Engine, "_forward", fail)
    async with asyncio.timeout(TIMEOUT_S):
        for _ in range(MAX_FAILURES - 1):
            with pytest.raises(SequenceFailed):
                await generated(thread, request)
            assert thread.is_alive
        with pytest.raises((SequenceFailed, EngineStopped)):
            await generated(thread, request)
        while thread.is_alive:
            await asyncio.sleep(0.001)
    with pytest.raises(EngineStopped, match="failed"):
        await generated(thread, Generate(prompt=prompt_of(5)))
    with pytest.raises(EngineStopped, match="failed"):
        thread.check_room("", 1)


async def test_who_waits_for_a_command_that_fails_hears_that_the_engine_has_stopped(
    thread: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Engine, "unload", fail)
    stream = thread.generate([greedy(prompt_of(5), max_tokens=1500)])
    await anext(stream)
    # The second one comes with the first, or finds the engine stopped.
    commands = thread.unload("adapter"), thread.unload("another")
    async with asyncio.timeout(TIMEOUT_S):
        for outcome in await asyncio.gather(*commands, return_exceptions=True):
            assert isinstance(outcome, EngineStopped)
        with pytest.raises(EngineStopped, match="failed"):
            async for _ in stream:
                pass
