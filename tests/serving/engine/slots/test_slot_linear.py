from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from serving.engine.slots.slot_linear import MAX_STACKED_RANK, Pair, SlotLinear, SlotRun, SlotRuns

NUM_IN, NUM_OUT = 24, 40
CPU = torch.device("cpu")


def make_layer(num_slots: int) -> tuple[SlotLinear, SlotRuns]:
    torch.manual_seed(0)
    runs = SlotRuns()
    return SlotLinear([nn.Linear(NUM_IN, NUM_OUT)], num_slots, runs), runs


def pair(rank: int) -> Pair:
    return torch.randn(NUM_IN, rank), torch.randn(rank, NUM_OUT)


@torch.inference_mode()
def expected(layer: SlotLinear, pairs: dict[int, Pair], runs: list[SlotRun], x: Tensor) -> Tensor:
    rows = []
    for run, run_x in zip(runs, torch.split(x[0], [run.num_tokens for run in runs]), strict=True):
        rows.append(layer.base(run_x[None])[0])
        if run.slot in pairs:
            a, b = pairs[run.slot]
            rows[-1] = rows[-1] + run_x @ a @ b
    return torch.cat(rows)[None]


def assert_right(
    layer: SlotLinear, step: SlotRuns, pairs: dict[int, Pair], lengths: dict[int | None, int]
) -> None:
    runs = [SlotRun(slot, num_tokens) for slot, num_tokens in lengths.items()]
    step.set(runs, CPU)
    x = torch.randn(1, sum(lengths.values()), NUM_IN)
    with torch.inference_mode():
        got = layer(x)
    torch.testing.assert_close(got, expected(layer, pairs, runs, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "is_together"),
    [
        ({0: 2, 1: 2, 2: 2, 3: 2}, True),
        ({None: 3, 0: 2, 1: 1, 3: 2}, True),
        ({None: 3, 1: 1, 2: 3}, True),
        ({1: 1, 2: 9, 3: 1}, False),
        ({0: 1, 3: 1}, True),
        ({2: 4}, False),
        ({None: 5}, False),
    ],
    ids=str,
)
def test_every_token_gets_its_own_adapter_together_or_one_by_one(
    lengths: dict[int | None, int], is_together: bool
) -> None:
    layer, step = make_layer(num_slots=4)
    # Slot 1's adapter leaves this layer as it is.
    pairs = {0: pair(4), 2: pair(8), 3: pair(5)}
    for slot, each in pairs.items():
        layer.put(slot, each)
    assert_right(layer, step, pairs, lengths)
    assert (step.together is not None) == is_together


def test_slot_that_is_emptied_or_refilled_forgets_what_was_there() -> None:
    layer, step = make_layer(num_slots=2)
    layer.put(0, pair(8))
    layer.put(1, pair(8))
    narrow = pair(3)
    layer.put(0, narrow)
    layer.put(1, None)
    assert layer.slots[1] is None
    assert_right(layer, step, {0: narrow}, {0: 2, 1: 2})
    assert_right(layer, step, {0: narrow}, {0: 1, 1: 9})


@pytest.mark.parametrize("rank", [32, MAX_STACKED_RANK + 1])
def test_far_wider_adapter_is_computed_by_itself(rank: int) -> None:
    layer, step = make_layer(num_slots=3)
    pairs = {0: pair(2), 1: pair(rank), 2: pair(3)}
    for slot, each in pairs.items():
        layer.put(slot, each)
    assert_right(layer, step, pairs, {0: 2, 1: 2, 2: 2})
    assert layer._rank_together((0, 1, 2)) == 0
    # Where it is not in the step it costs nothing.
    assert_right(layer, step, pairs, {0: 2, 2: 2})
    assert layer._rank_together((0, 2)) == 3
    layer.put(1, pairs[0])
    assert_right(layer, step, {**pairs, 1: pairs[0]}, {0: 2, 1: 2, 2: 2})


def test_wider_adapter_leaves_those_in_the_other_slots_as_they_are() -> None:
    layer, step = make_layer(num_slots=3)
    pairs = {0: pair(2), 2: pair(3)}
    for slot, each in pairs.items():
        layer.put(slot, each)
    pairs[1] = pair(4)
    layer.put(1, pairs[1])
    assert_right(layer, step, pairs, {0: 2, 1: 2, 2: 2})
    assert_right(layer, step, pairs, {0: 1, 1: 9, 2: 1})
