"""One project floods, another's first token comes after a bounded number of steps; within a project no adapter starves."""

from __future__ import annotations

import pytest

from serving.engine.limits import Limits
from tests.serving.engine.load import Load, num_tokens
from tests.serving.parts import prompt_of
from text.tokenizer import Tokenizer

MAX_STEPS = 2
"""To another's first token: the chat's prompt is shorter than what one step reads."""


@pytest.mark.parametrize("adapter_id", [None, "theirs-3", "mine"])
@pytest.mark.parametrize("num_adapters", [0, 2, 500])
def test_another_project_s_first_token_is_a_few_steps_away(
    tokenizer: Tokenizer, num_adapters: int, adapter_id: str | None
) -> None:
    """However long the flood has waited for the slots, and for however many adapters."""
    load = Load(tokenizer)
    for number in range(500):
        theirs = f"theirs-{number % num_adapters}" if num_adapters else None
        load.add("flood", prompt_of(30, number), max_tokens=100, adapter_id=theirs)
    for _ in range(5):
        load.step()
    load.now_s += 10 * Limits().drain_after_s
    for number in range(3):
        chat = load.add("chat", prompt_of(20, 1000 + number), max_tokens=4, adapter_id=adapter_id)
        for _ in range(MAX_STEPS):
            load.step()
        assert chat.num_generated
        while chat in load.scheduler.places.all_sequences():
            assert num_tokens(load.step(), "chat") == 1


def test_a_request_of_thousands_of_choices_is_thousands_of_sequences(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer, num_pages=400)
    for number in range(2048):
        load.add("flood", prompt_of(4, number // 128), max_tokens=50)
    others = [f"other-{number}" for number in range(10)]
    for _ in range(5):
        load.step()
    chats = [load.add(project, prompt_of(20, 5), max_tokens=8) for project in others]
    for _ in range(MAX_STEPS * len(others)):
        load.step()
    assert all(chat.num_generated for chat in chats)


def test_a_cold_adapter_waits_for_who_was_there_before_it_and_no_longer(
    tokenizer: Tokenizer,
) -> None:
    """Two adapters of the same project fill both slots, and somebody asks for them at every step."""
    load = Load(tokenizer)
    longest = 30

    def step(number: int) -> None:
        for name in ("hot-a", "hot-b"):
            load.add("p", prompt_of(5, number), max_tokens=longest, adapter_id=name)
        load.step()
        load.now_s += 0.1

    for number in range(10):
        step(number)
    cold = load.add("p", prompt_of(5, 999), max_tokens=3, adapter_id="cold")
    num_steps = 0
    while not cold.num_generated:
        num_steps += 1
        assert num_steps <= Limits().drain_after_s / 0.1 + longest + 3
        step(num_steps)


def test_adapters_of_one_project_take_turns_at_slots_with_another_s(tokenizer: Tokenizer) -> None:
    """Nobody's queue of cold adapters holds up what another project has in a slot, nor the other way round."""
    load = Load(tokenizer)
    for number in range(40):
        load.add("many", prompt_of(20, number), max_tokens=10, adapter_id=f"cold-{number}")
    served: list[int] = []
    for number in range(60):
        one = load.add("one", prompt_of(5, number), max_tokens=2, adapter_id="hot")
        for _ in range(3):
            load.step()
            load.now_s += 0.1
        served.append(one.num_generated)
    assert set(served) == {2}
    assert sum(s.project == "many" for s in load.scheduler.places.all_sequences()) < 30


@pytest.mark.parametrize("weight", [1, 3])
def test_work_is_shared_by_weight(tokenizer: Tokenizer, weight: int) -> None:
    load = Load(tokenizer, num_pages=2000)
    for seed in range(200):
        load.add("heavy", prompt_of(200, seed), max_tokens=40, weight=weight)
        load.add("light", prompt_of(200, 1000 + seed), max_tokens=40)
    heavy = light = 0
    for _ in range(150):
        work = load.step()
        heavy += num_tokens(work, "heavy")
        light += num_tokens(work, "light")
    assert weight * 0.8 < heavy / light < weight * 1.25
    running = [s.project for s in load.scheduler.places.running]
    assert weight * 0.8 < running.count("heavy") / running.count("light") < weight * 1.25


def test_a_light_project_is_in_every_step_beside_a_heavy_flood(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer)
    for seed in range(500):
        load.add("heavy", prompt_of(30, seed), max_tokens=50, weight=100)
    for _ in range(5):
        load.step()
    chat = load.add("chat", prompt_of(20, 1000), max_tokens=8)
    for _ in range(MAX_STEPS):
        load.step()
    assert chat.num_generated
    while chat in load.scheduler.places.all_sequences():
        assert num_tokens(load.step(), "chat") == 1
