from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataset.examples import Example
from modeling.layout import Layout
from tests.training.jobs import micro_batches
from training import batches
from training.batches import ScoredRow


def example(length: int, supervised: int, first_id: int = 0) -> Example:
    """`length` tokens counted up from first_id, of which the last `supervised` count."""
    weights = np.zeros(length, dtype=np.float32)
    weights[length - supervised :] = 1
    return Example(np.arange(first_id, first_id + length, dtype=np.int32), weights)


def test_every_epoch_sees_every_example_once_in_its_own_order() -> None:
    steps = batches.steps_per_epoch(10, 4)
    assert steps == 3
    epochs = [
        [
            index
            for step in range(epoch * steps + 1, (epoch + 1) * steps + 1)
            for index in batches.examples_of_step(step, 10, 4, seed=1)
        ]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [len(batches.examples_of_step(step, 10, 4, seed=1)) for step in (1, 2, 3, 4)] == [
        *(4, 4, 2),
        4,
    ]
    assert [batches.epoch_of(step, 10, 4) for step in (1, 3, 4, 9)] == [1, 1, 2, 3]


def test_order_is_a_function_of_seed_and_epoch_only() -> None:
    # Pinned: another order would break the resume of jobs that an older version began.
    order = batches.permutation(8, seed=1, epoch=1).tolist()
    assert order == [5, 2, 3, 7, 4, 1, 0, 6]
    assert batches.permutation(8, seed=2, epoch=1).tolist() != order


def test_batch_holds_what_predicts_each_supervised_token() -> None:
    (batch,) = micro_batches([example(3, 2, 10), example(5, 1, 20)], 100)
    assert batch.input_ids.tolist() == [20, 21, 22, 23, 10, 11]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.layout == Layout.of_lengths((4, 2))
    assert batch.positions.tolist() == [3, 4, 5]
    assert batch.labels.tolist() == [24, 11, 12]
    assert batch.weights.tolist() == [1, 1, 1]
    assert batch.labels.dtype == batch.input_ids.dtype == torch.int64


def test_tokens_behind_the_last_supervised_one_are_not_computed() -> None:
    late = example(6, 3)
    late.weights[4:] = 0
    (batch,) = micro_batches([late], 100)
    assert batch.input_ids.tolist() == [0, 1, 2]
    assert batch.labels.tolist() == [3]


def test_micro_batches_keep_the_budget_and_are_balanced() -> None:
    lengths = [3, 90, 41, 7, 60, 33, 20, 20, 11, 5]
    examples = [example(length + 1, 1, length) for length in lengths]
    packed = micro_batches(examples, 100)
    sizes = [len(batch.input_ids) for batch in packed]
    assert sum(sizes) == sum(lengths)
    assert len(sizes) == math.ceil(sum(lengths) / 100)
    assert max(sizes) <= 100
    assert min(sizes) >= 90


def test_example_over_the_budget_gets_a_pass_of_its_own() -> None:
    packed = micro_batches([example(51, 1), example(31, 1, 1), example(201, 1, 2)], 100)
    assert sorted(batch.layout.offsets for batch in packed) == [(0, 50, 80), (0, 200)]


def beginning_alike(num_shared: int, *lengths: int) -> list[Example]:
    """Examples of the given lengths, of which the last two tokens count."""
    examples = [example(length, 2, 1000 * n) for n, length in enumerate(lengths)]
    for each in examples:
        each.input_ids[:num_shared] = np.arange(num_shared)
    return examples


def test_what_all_examples_begin_with_lies_in_the_batch_once() -> None:
    (batch,) = micro_batches(beginning_alike(10, 13, 15), 100)
    assert batch.layout == Layout.of_lengths((4, 2), 10)
    assert batch.input_ids.tolist() == [*range(10), 1010, 1011, 1012, 1013, 10, 11]
    assert batch.position_ids.tolist() == [*range(10), 10, 11, 12, 13, 10, 11]
    assert batch.positions.tolist() == [12, 13, 14, 15]
    assert batch.labels.tolist() == [1013, 1014, 11, 12]


@pytest.mark.parametrize(
    ("examples", "num_shared"),
    [
        # What one example learns from there, the others may not.
        ([example(12, 2), example(40, 2)], 9),
        ([example(20, 2), example(20, 2)], 17),
        (beginning_alike(7, 20, 20), 0),
        (beginning_alike(10, 20), 0),
    ],
    ids=["up to what is learnt", "equal examples", "too few tokens", "one example"],
)
def test_shared_tokens_are_those_before_anything_is_learnt(
    examples: list[Example], num_shared: int
) -> None:
    (batch,) = micro_batches(examples, 100)
    assert sum(batch.layout.lengths[: -len(examples)]) == num_shared
    assert len(batch.labels) == 2 * len(examples)


def unit_of(prompt: list[int], *answers: list[int]) -> list[ScoredRow]:
    """The answers count, with an end behind each, of which nothing is computed."""
    rows = []
    for answer in answers:
        ids = np.array([*prompt, *answer, 0], np.int32)
        is_scored = np.arange(len(ids)) >= len(prompt)
        rows.append(ScoredRow(ids, is_scored, is_scored.astype(np.float32)))
    return rows


def test_the_prompt_of_a_pair_lies_in_the_batch_once() -> None:
    system = list(range(10))
    pairs = [
        unit_of([*system, *range(base, base + 20)], [base + 50, 7], [base + 60])
        for base in (100, 200)
    ]
    (batch,) = batches.micro_batches(pairs, 100)
    # All but the last token of a prompt, which predicts the first one of an answer.
    assert batch.layout.lengths == [10, 19, 3, 2, 19, 3, 2]
    assert batch.layout.parents == (-1, 0, 1, 1, 0, 4, 4)
    assert batch.position_ids[29:34].tolist() == [29, 30, 31, 29, 30]
    assert batch.input_ids[29:34].tolist() == [119, 150, 7, 119, 160]
    assert batch.labels.tolist() == [150, 7, 0, 160, 0, 250, 7, 0, 260, 0]
    assert batch.positions.tolist() == [29, 30, 31, 32, 33, 53, 54, 55, 56, 57]
    # 34 tokens of 58 are a pair's, so that two of them fit with what they share and not without.
    assert len(batches.micro_batches(pairs, 58)) == 1
    assert len(batches.micro_batches(pairs, 57)) == 2


@given(st.data())
def test_whatever_rows_share_each_is_whole_in_its_batch(data: st.DataObject) -> None:
    """Prompts of a few words that are often the same ones, so that they share at any depth."""
    words = st.lists(st.sampled_from([(1,) * 4, (2,) * 9, (3, 4)]), max_size=6)
    answers = st.lists(st.lists(st.integers(5, 9), max_size=5), min_size=1, max_size=4)
    units = [
        unit_of([1, *itertools.chain(*data.draw(words))], *data.draw(answers))
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    budget = data.draw(st.integers(1, 200))
    packed = batches.micro_batches(units, budget)
    assert sorted(unit for batch in packed for unit in batch.units) == list(range(len(units)))
    for batch in packed:
        layout = batch.layout
        rows = [row for unit in batch.units for row in units[unit]]
        by_end = {layout.offsets[path[-1] + 1] - 1: path for path in layout.paths}
        ends = [int(positions[-1]) for positions in batch.of_rows(batch.positions)]
        assert len(by_end) == len(rows)
        for row, end, positions in zip(rows, ends, batch.of_rows(batch.positions), strict=True):
            tokens = layout.tokens(by_end[end])
            assert batch.input_ids[tokens].tolist() == row.input_ids[:-1].tolist()
            assert batch.position_ids[tokens].tolist() == list(range(len(tokens)))
            assert batch.position_ids[positions].tolist() == (row.scored - 1).tolist()
        shared = [
            length for number, length in enumerate(layout.lengths) if number in layout.parents
        ]
        assert all(length >= batches.MIN_SHARED_TOKENS for length in shared)


def test_long_shared_beginning_counts_once_in_the_budget_but_attention_is_bounded() -> None:
    examples = beginning_alike(80, *[86] * 40)  # 85 tokens each, without the last
    for budget, num_together in ((100, 4), (1000, 40), (80, 1)):
        packed = micro_batches(examples, budget)
        assert [len(batch.layout.paths) for batch in packed] == [num_together] * (
            40 // num_together
        )
    short = beginning_alike(80, *[83] * 40)
    # 2 own tokens each would let 10 share a pass; attention holds 4 budgets at most.
    (*_, last) = micro_batches(short, 100)
    assert (len(last.layout.paths)) * 82 <= 400


def test_what_attention_holds_for_virtual_tokens_is_bounded() -> None:
    units = [[ScoredRow.of(example(5, 1, 100 * first))] for first in range(12)]
    (together,) = batches.micro_batches(units, 100)
    assert len(together.num_scored) == 12
    split = batches.micro_batches(units, 100, num_virtual_tokens=95)
    # Attention holds 95 + 4 places for each, and 4 budgets at most.
    assert [len(batch.num_scored) for batch in split] == [4, 4, 4]
    assert not any(batch.layout.is_shared for batch in split)


def test_batch_refuses_parts_that_do_not_fit() -> None:
    (batch,) = micro_batches([example(3, 2), example(5, 1)], 100)
    for change in (
        {"layout": Layout.of_lengths((4, 1))},
        {"layout": Layout.of_lengths((6,))},
        {"position_ids": batch.position_ids[1:]},
        {"labels": batch.labels[1:]},
        {"weights": batch.weights[1:]},
        {"num_scored": (1, 1)},
        {"num_scored": (3,)},
    ):
        with pytest.raises(ValueError, match=r"layout|position|label"):
            dataclasses.replace(batch, **change)


def test_rows_of_a_unit_stay_together() -> None:
    pairs = [
        [ScoredRow.of(example(9, 3, 100 * n)), ScoredRow.of(example(5, 3, 100 * n + 50))]
        for n in range(6)
    ]
    packed = batches.micro_batches(pairs, 25)  # 8 + 4 tokens a pair
    assert [len(batch.layout.paths) for batch in packed] == [4, 4, 4]
    for batch in packed:
        ids = [int(batch.input_ids[start]) for start in batch.layout.offsets[:-1]]
        assert [b - a for a, b in zip(ids[::2], ids[1::2], strict=True)] == [50, 50]


def test_a_batch_knows_its_units_and_what_is_scored_of_each_row() -> None:
    units = [
        [ScoredRow.of(example(length, length % 4 + 1, 100 * n)) for length in lengths]
        for n, lengths in enumerate(((5, 9), (20,), (7, 7, 8)))
    ]
    packed = batches.micro_batches(units, 25)
    assert sorted(unit for batch in packed for unit in batch.units) == [0, 1, 2]
    for batch in packed:
        rows = [row for unit in batch.units for row in units[unit]]
        assert batch.num_scored == tuple(len(row.scored) for row in rows)
        labels = [part.tolist() for part in batch.of_rows(batch.labels)]
        assert labels == [row.input_ids[row.scored].tolist() for row in rows]


def test_unit_over_the_budget_gets_a_pass_of_its_own() -> None:
    pairs = [
        [ScoredRow.of(example(length, 2, 100 * n)) for _ in range(2)]
        for n, length in ((0, 9), (1, 41))
    ]
    packed = batches.micro_batches(pairs, 30)
    assert sorted(batch.layout.offsets for batch in packed) == [(0, 8, 16), (0, 38, 40, 42)]


def test_whole_rows_keep_what_follows_the_last_scored_token() -> None:
    late = example(6, 3)
    late.weights[4:] = 0
    (batch,) = batches.micro_batches(
        [[ScoredRow.of(late)], [ScoredRow.of(example(4, 1, 10))]], 100, whole_rows=True
    )
    assert batch.input_ids.tolist() == [*range(6), *range(10, 14)]
    assert batch.layout.offsets == (0, 6, 10)
    assert batch.positions.tolist() == [2, 8]
    assert batch.labels.tolist() == [3, 13]


def test_what_is_scored_and_what_it_weighs_are_two_things() -> None:
    ids = np.arange(5, dtype=np.int32)
    row = ScoredRow(ids, np.array([1, 0, 1, 1, 1], bool), np.array([9, 9, -2, 0, 0.5], np.float32))
    (batch,) = batches.micro_batches([[row]], 100)
    assert batch.labels.tolist() == [2, 3, 4]
    assert batch.weights.tolist() == [-2, 0, 0.5]
