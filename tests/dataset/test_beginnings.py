from __future__ import annotations

import numpy as np
import pytest

from dataset import beginnings
from dataset.examples import Example


def example(prompt: list[int], answer: list[int]) -> Example:
    weights = [0.0] * len(prompt) + [1.0] * len(answer)
    return Example(np.array(prompt + answer, np.int32), np.array(weights, np.float32))


def commonest(examples: list[Example], num_tokens: int) -> list[int]:
    found: list[int] = beginnings.commonest(examples, num_tokens).tolist()
    return found


def test_what_most_prompts_begin_with() -> None:
    rows = [example([1, 2, 9], [5]), example([1, 3, 4], [5]), example([1, 3, 9, 8], [6, 7])]
    assert commonest(rows, 2) == [1, 3]


def test_of_equals_what_comes_first_in_the_file() -> None:
    rows = [example([2, 1], [5]), example([1, 2], [5])]
    assert commonest(rows, 2) == [2, 1]
    assert commonest(rows[::-1], 2) == [1, 2]


def test_answers_count_where_no_prompt_is_long_enough() -> None:
    rows = [example([7], [1, 2, 3]), example([8], [1, 2, 3]), example([8], [1, 2, 4])]
    assert commonest(rows, 3) == [8, 1, 2]
    assert commonest([*rows, example([4, 5, 6], [1])], 3) == [4, 5, 6]


def test_of_texts_that_are_too_short_the_longest_one() -> None:
    assert commonest([example([1], [2]), example([1, 2], [3]), example([4], [5, 6])], 9) == [
        1,
        2,
        3,
    ]


def test_the_sequences_of_a_row_are_texts_of_their_own() -> None:
    pair = Example.of_sequences([example([1, 2], [3]), example([1, 2], [4, 5])])
    assert commonest([example([6, 7], [8]), pair], 2) == [1, 2]


def test_a_row_of_which_nothing_is_learnt_is_a_prompt() -> None:
    assert commonest([example([3, 4], [])], 2) == [3, 4]


def test_only_the_first_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "NUM_EXAMPLES", 1)
    assert commonest([example([1, 1], [5]), *[example([2, 2], [5])] * 3], 2) == [1, 1]
