from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.examples import Example, Examples, Writer

WEIGHTS = st.sampled_from([0.0, 1.0, 0.25, 1 / 3])
EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), WEIGHTS), min_size=1, max_size=30), max_size=8
)


def sequence(row: list[tuple[int, float]]) -> Example:
    return Example(
        np.array([token_id for token_id, _ in row], dtype=np.int32),
        np.array([weight for _, weight in row], dtype=np.float32),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(EXAMPLES.filter(bool), max_size=6))
def test_examples_come_back_as_they_were(
    tmp_path: Path, rows: list[list[list[tuple[int, float]]]]
) -> None:
    """Each of one sequence or of several, in any mixture."""
    wanted = [Example.of_sequences([sequence(each) for each in row]) for row in rows]
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "examples"
    writer = Writer(folder)
    for example in wanted:
        writer.append(example)
    writer.close()
    examples = Examples(folder)
    assert len(examples) == len(wanted)
    for found in (list(examples), examples[:], [examples[i] for i in range(len(wanted))]):
        for example, original in zip(found, wanted, strict=True):
            assert example.input_ids.dtype == np.dtype(np.int32)
            assert example.weights.dtype == np.dtype(np.float32)
            np.testing.assert_array_equal(example.input_ids, original.input_ids)
            np.testing.assert_array_equal(example.weights, original.weights)
            assert example.weight == original.weight
            assert example.lengths == original.lengths
            assert [e.num_tokens for e in example.sequences] == [
                e.num_tokens for e in original.sequences
            ]
        assert [example.index for example in found] == list(range(len(wanted)))
    for example, row in zip(wanted, rows, strict=True):
        for part, tokens in zip(example.sequences, row, strict=True):
            np.testing.assert_array_equal(part.input_ids, sequence(tokens).input_ids)
            np.testing.assert_array_equal(part.weights, sequence(tokens).weights)
        # Nothing predicts the first token of any sequence.
        assert example.num_supervised_tokens == sum(
            weight > 0 for tokens in row for _, weight in tokens[1:]
        )


def empty(folder: Path) -> Path:
    Writer(folder / "examples").close()
    return folder / "examples"


def test_an_index_out_of_range_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        Examples(empty(tmp_path))[0]


def test_the_files_are_closed_with_the_examples(tmp_path: Path) -> None:
    folder = empty(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    examples = Examples(folder)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    del examples
    assert len(os.listdir("/proc/self/fd")) == before
