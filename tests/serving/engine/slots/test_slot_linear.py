from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from serving.engine.slots.low_rank import LowRank
from serving.engine.slots.slot_linear import (
    MAX_SUMMED_TOKENS,
    MAX_TABLE_RANK,
    SlotLinear,
    SlotRun,
    SlotRuns,
)

NUM_IN = 24
SIZES = (48, 16, 16)
LONG = MAX_SUMMED_TOKENS + 1


def make_layer(num_slots: int) -> tuple[SlotLinear, SlotRuns]:
    torch.manual_seed(0)
    runs = SlotRuns()
    return SlotLinear([nn.Linear(NUM_IN, size) for size in SIZES], num_slots, runs), runs


def pair(*ranks: int) -> LowRank:
    return LowRank(
        torch.randn(NUM_IN, sum(ranks)),
        tuple(torch.randn(rank, size) for rank, size in zip(ranks, SIZES, strict=True)),
    )


def gain(pair: LowRank, x: Tensor) -> Tensor:
    narrow = torch.split(x @ pair.a, list(pair.ranks), -1)
    return torch.cat([part @ b for part, b in zip(narrow, pair.bs, strict=True)], -1)


@torch.inference_mode()
def expected(
    layer: SlotLinear, pairs: dict[int, LowRank], runs: list[SlotRun], x: Tensor
) -> Tensor:
    rows = []
    for run, run_x in zip(runs, torch.split(x[0], [run.num_tokens for run in runs]), strict=True):
        rows.append(layer.base(run_x[None])[0])
        if run.slot in pairs:
            rows[-1] = rows[-1] + gain(pairs[run.slot], run_x)
    return torch.cat(rows)[None]


def assert_right(
    layer: SlotLinear, step: SlotRuns, pairs: dict[int, LowRank], lengths: dict[int | None, int]
) -> None:
    runs = [SlotRun(slot, num_tokens) for slot, num_tokens in lengths.items()]
    step.set(runs)
    x = torch.randn(1, sum(lengths.values()), NUM_IN)
    with torch.inference_mode():
        got = layer(x)
    torch.testing.assert_close(got, expected(layer, pairs, runs, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "lengths",
    [
        {0: 2, 1: 2, 2: 2, 3: 2},
        {None: 3, 0: 2, 1: 1, 3: 2},
        {None: 3, 1: 1, 2: 3},
        {0: 1, 1: LONG, 3: 1},
        {None: 2, 0: 1, 2: LONG, 3: 5},
        {0: LONG, 1: 2, 2: LONG},
        {3: 1},
        {2: LONG},
        {1: 4},
        {None: 5},
    ],
    ids=str,
)
def test_every_token_gets_its_own_adapter(lengths: dict[int | None, int]) -> None:
    layer, step = make_layer(num_slots=4)
    # Slot 1's adapter leaves this layer as it is, the others have ranks of their own, and none for some parts.
    pairs = {0: pair(4, 4, 4), 2: pair(8, 0, 3), 3: pair(0, 5, 0)}
    for slot, each in pairs.items():
        layer.put(slot, each)
    assert_right(layer, step, pairs, lengths)
    assert_right(layer, step, pairs, lengths)  # the same steps again, by the same plan


def test_slot_that_is_emptied_or_refilled_forgets_what_was_there() -> None:
    layer, step = make_layer(num_slots=2)
    layer.put(0, pair(8, 8, 8))
    layer.put(1, pair(8, 8, 8))
    assert_right(layer, step, {n: held for n in (0, 1) if (held := layer.slots[n])}, {0: 2, 1: 2})
    narrow = pair(3, 2, 1)
    layer.put(0, narrow)
    layer.put(1, None)
    assert layer.slots[1] is None
    assert_right(layer, step, {0: narrow}, {0: 2, 1: 2})
    assert_right(layer, step, {0: narrow}, {0: 1, 1: LONG})


@pytest.mark.parametrize("rank", [32, MAX_TABLE_RANK + 1])
def test_far_wider_adapter_costs_its_neighbours_nothing(rank: int) -> None:
    layer, step = make_layer(num_slots=3)
    pairs = {0: pair(2, 2, 2), 1: pair(rank, 0, 0), 2: pair(3, 2, 1)}
    for slot, each in pairs.items():
        layer.put(slot, each)
    assert_right(layer, step, pairs, {0: 2, 1: 2, 2: 2})
    # Where it is not in the step the others' products are as narrow as if it were not there.
    assert_right(layer, step, pairs, {0: 2, 2: 2})
    assert layer._plan is not None
    assert layer._plan.sums is not None
    assert layer._plan.sums.width == 6
    layer.put(1, pairs[0])
    assert_right(layer, step, {**pairs, 1: pairs[0]}, {0: 2, 1: 2, 2: 2})


def test_wider_adapter_leaves_those_in_the_other_slots_as_they_are() -> None:
    layer, step = make_layer(num_slots=3)
    pairs = {0: pair(2, 2, 2), 2: pair(3, 3, 3)}
    for slot, each in pairs.items():
        layer.put(slot, each)
    pairs[1] = pair(4, 4, 4)
    layer.put(1, pairs[1])
    assert_right(layer, step, pairs, {0: 2, 1: 2, 2: 2})
    assert_right(layer, step, pairs, {0: 1, 1: LONG, 2: 1})


def test_layers_alike_have_one_plan_which_lasts_while_the_runs_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    plan_of = SlotLinear._plan_of

    def counted(layer: SlotLinear, ranks: Any) -> object:
        made.append(ranks)
        return plan_of(layer, ranks)

    monkeypatch.setattr(SlotLinear, "_plan_of", counted)
    step = SlotRuns()
    layers = [SlotLinear([nn.Linear(NUM_IN, size) for size in SIZES], 2, step) for _ in range(3)]
    for layer in layers:
        layer.put(0, pair(4, 4, 4))
    for num_tokens, num_made in ((2, 1), (2, 1), (3, 2), (2, 3)):
        step.set([SlotRun(0, num_tokens)])
        for layer in layers:
            layer(torch.randn(1, num_tokens, NUM_IN))
        assert len(made) == num_made


@pytest.mark.parametrize("lengths", [{0: 64}, {0: 64, 1: 64}, {0: 9, 1: 9}], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_in_bf16_an_adapter_far_smaller_than_the_base_still_adds_something(
    lengths: dict[int | None, int], bias: bool
) -> None:
    """Beside a number that is rounded already, nearly all of it would be less than bf16 tells apart."""
    torch.manual_seed(0)
    step = SlotRuns()
    linear = nn.Linear(64, 96, bias=bias, dtype=torch.bfloat16)
    nn.init.normal_(linear.weight, std=64**-0.5)
    layer = SlotLinear([linear], 2, step)
    a, b = torch.randn(64, 4).sign() / 8, torch.randn(4, 96).sign() / 2**13
    for slot in (0, 1):
        layer.put(slot, LowRank(a.bfloat16(), (b.bfloat16(),)))
    step.set([SlotRun(slot, num_tokens) for slot, num_tokens in lengths.items()])
    x = torch.randn(1, sum(lengths.values()), 64).bfloat16()
    with torch.inference_mode():
        got = layer(x)[0].double()
    base = nn.functional.linear(
        x[0].double(), linear.weight.double(), linear.bias.double() if bias else None
    )
    small = x[0].double() @ a.double() @ b.double()
    arrived = ((got - base) * small).sum() / small.square().sum()
    assert arrived.item() == pytest.approx(1, abs=0.3)
