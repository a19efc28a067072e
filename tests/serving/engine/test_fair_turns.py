"""Turns between projects, and loads that come to an end, with all of serving real but the model's steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine.fair_turns import FairTurns, fair_shares
from serving.engine.limits import Limits
from serving.engine.step_budget import MIN_PROMPT_TOKENS, SHARED_FOR_S
from tests.serving.engine.load import Load, num_tokens
from tests.serving.parts import prompt_of
from text.tokenizer import Tokenizer


@settings(max_examples=150, deadline=None)
@given(st.integers(min_value=0), st.integers(2, 6), st.integers(1, 4))
def test_every_load_ends_however_small_the_pool(
    tokenizer: Tokenizer, seed: int, num_pages: int, max_running: int
) -> None:
    """Contexts of more than half the pool among them, which used to evict each other for ever."""
    draw = random.Random(seed)
    limits = Limits(max_running=max_running, step_tokens=draw.choice((max_running, 64)))
    load = Load(tokenizer, num_pages=num_pages, limits=limits)
    shared = prompt_of(load.max_seq_len, draw.randrange(3))
    total = 0
    for _ in range(draw.randint(1, 8)):
        length = draw.randint(1, load.max_seq_len - 1)
        num_shared = draw.choice((0, length // 2, length))
        prompt = shared[:num_shared] + prompt_of(length - num_shared, draw.randrange(100))
        max_tokens = draw.randint(1, min(load.max_seq_len - length, 200))
        load.add(
            draw.choice("ab"),
            prompt,
            max_tokens=max_tokens,
            adapter_id=draw.choice((None, "a", "b", "c")),
            weight=draw.choice((1, 5)),
        )
        total += length + max_tokens
    load.run(20 * total)


def test_alone_a_project_has_the_whole_step(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer)
    for seed in range(64):
        load.add("a", prompt_of(4, seed))
    assert num_tokens(load.step(), "a") == 256


def test_a_short_chat_is_in_every_step_and_keeps_the_step_short(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer)
    crowd = [load.add("crowd", prompt_of(30, seed), max_tokens=50) for seed in range(300)]
    for _ in range(20):
        load.step()
    chat = load.add("chat", prompt_of(20, 1000), max_tokens=16)
    for _ in range(16):
        work = load.step()
        assert num_tokens(work, "chat") > 0
        assert num_tokens(work, "crowd") <= Limits().shared_tokens
    assert chat.num_generated == 16
    # And nobody of the crowd is forgotten.
    load.run(2000)
    assert {sequence.num_generated for sequence in crowd} == {50}


@pytest.mark.parametrize("token_s", [1e-6, 0.0005, 0.001, 0.002, 0.003, 0.01])
def test_steps_are_short_in_time_while_others_may_come(
    tokenizer: Tokenizer, token_s: float
) -> None:
    load = Load(tokenizer, num_pages=1000)
    load.add("chat", prompt_of(20), max_tokens=1)
    load.timed_step(token_s)
    for seed in range(3):
        load.add("crowd", prompt_of(2000, seed), max_tokens=1)
    sizes = [load.timed_step(token_s) for _ in range(6)]
    timely = max(MIN_PROMPT_TOKENS, int(Limits().shared_step_s / token_s))
    # What comes before anything is known about the machine is as short as it gets.
    assert sizes[0] <= MIN_PROMPT_TOKENS + 3
    assert all(min(timely, 253) - 1 <= size <= min(timely + 3, 256) for size in sizes[1:])


def test_alone_for_long_a_project_has_the_whole_step_again(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer, num_pages=1000)
    load.add("crowd", prompt_of(2000), max_tokens=1)
    assert load.timed_step(0.01) == 256
    load.add("chat", prompt_of(20), max_tokens=1)
    while load.timed_step(0.01) == 256:
        """The chat is in the next step, or the one after it."""
    assert load.timed_step(0.01) <= MIN_PROMPT_TOKENS + 3
    load.now_s += SHARED_FOR_S
    assert load.timed_step(0.01) == 256


def test_nobody_shares_with_the_server_s_own_warming_up(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer, num_pages=1000)
    load.add("", prompt_of(2), max_tokens=1)
    load.timed_step(0.01)
    load.add("crowd", prompt_of(1000), max_tokens=1)
    assert load.timed_step(0.01) == 256


def test_short_steps_have_room_for_a_prompt_beside_running_sequences(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer, num_pages=1000)
    load.add("chat", prompt_of(20), max_tokens=1)
    load.timed_step(0.01)
    for seed in range(60):
        load.add("crowd", prompt_of(1, seed), max_tokens=100)
    load.timed_step(0.01)
    long = load.add("crowd", prompt_of(100, 100), max_tokens=1)
    for _ in range(100 // MIN_PROMPT_TOKENS + 1):
        assert load.timed_step(0.01) <= 61 + MIN_PROMPT_TOKENS
    assert long.num_generated == 1


def test_what_others_get_beside_the_leader_goes_round(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer, limits=Limits(max_running=8, step_tokens=16, shared_tokens=2))
    crowd = [load.add("crowd", prompt_of(1, seed), max_tokens=100) for seed in range(7)]
    load.step()
    load.add("chat", prompt_of(1, 50), max_tokens=100)
    for _ in range(15):
        load.step()
    assert max(s.num_generated for s in crowd) - min(s.num_generated for s in crowd) <= 1


def test_many_projects_with_a_chat_each_are_all_in_every_step(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer)
    chats = [load.add(f"project-{n}", prompt_of(1, n), max_tokens=20) for n in range(40)]
    for _ in range(20):
        load.step()
    assert {chat.num_generated for chat in chats} == {20}


def test_work_is_shared_evenly_between_projects_that_want_all(tokenizer: Tokenizer) -> None:
    load = Load(tokenizer, num_pages=2000)
    for seed in range(100):
        load.add("many", prompt_of(200, seed), max_tokens=1)
    for seed in range(20):
        load.add("few", prompt_of(200, 1000 + seed), max_tokens=1)
    computed = dict.fromkeys(("many", "few"), 0)
    while any(s.project == "few" for s in load.scheduler.places.all_sequences()):
        work = load.step()
        for project in computed:
            computed[project] += num_tokens(work, project)
    assert computed["many"] < 1.2 * computed["few"]


@pytest.mark.parametrize("adapter_id", [None, "mine"])
def test_long_contexts_of_one_project_make_way_for_another(
    tokenizer: Tokenizer, adapter_id: str | None
) -> None:
    """They fill the memory for keys and values, and both slots."""
    load = Load(tokenizer, num_pages=8)
    for number in range(4):
        load.add("greedy", prompt_of(450, number), max_tokens=400, adapter_id=f"theirs-{number}")
    for _ in range(10):
        load.step()
    chat = load.add("chat", prompt_of(20, 1000), max_tokens=4, adapter_id=adapter_id)
    for _ in range(4):
        assert num_tokens(load.step(), "chat") > 0
    assert chat.num_generated == 4
    load.run(20_000)


def test_a_pause_saves_up_no_turns() -> None:
    turns = FairTurns()
    turns.enter("a")
    turns.charge("a", 100)
    turns.enter("b")
    assert turns.served("b") == turns.served("a") - 1
    turns.charge("b", 5)
    turns.keep({"a"})
    turns.enter("b")
    assert turns.served("b") == turns.served("a") - 1


@pytest.mark.parametrize(
    ("demands", "total", "shares"),
    [
        ({"a": 1, "b": 9}, 12, {"a": 1, "b": 9}),
        ({"a": 1, "b": 90, "c": 90}, 12, {"a": 1, "b": 6, "c": 5}),
        ({"a": 5, "b": 5, "c": 5}, 2, {"a": 1, "b": 1, "c": 0}),
        ({}, 3, {}),
    ],
)
def test_shares(demands: dict[str, int], total: int, shares: dict[str, int]) -> None:
    assert fair_shares(demands, total) == shares


@pytest.mark.parametrize(
    ("demands", "total", "shares"),
    [
        ({"a": 90, "b": 90}, 12, {"a": 9, "b": 3}),
        ({"a": 4, "b": 90}, 12, {"a": 4, "b": 8}),
        ({"b": 90, "c": 90, "a": 90}, 3, {"b": 1, "c": 1, "a": 1}),
    ],
)
def test_shares_by_weight(demands: dict[str, int], total: int, shares: dict[str, int]) -> None:
    assert fair_shares(demands, total, {"a": 3, "b": 1, "c": 1}) == shares
