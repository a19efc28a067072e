"""What the plan says beside what a process takes."""

from __future__ import annotations

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.training import jobs
from training.batches import ScoredRow
from training.losses.cross_entropy import cross_entropy
from training.memory import STATE_BYTES
from training.primitives import Learner, load_base

NUM_TOKENS, LENGTH, VOCAB_SIZE = 2048, 256, 2048


def resident_bytes(which: str) -> int:
    """VmRSS, or VmHWM: the highest up to now."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def step(learner: Learner, length: int, num_tokens: int) -> None:
    chance = np.random.default_rng(1)
    rows = []
    for _ in range(num_tokens // length):
        ids = chance.integers(0, VOCAB_SIZE, length + 1).astype(np.int32)
        rows.append([ScoredRow(ids, np.ones(len(ids), bool), np.ones(len(ids), np.float32))])
    (batch,) = learner.micro_batches(rows)
    learner.forward_backward(batch, cross_entropy, num_tokens)
    learner.optim_step(1e-4, 1.0)


def planned_and_taken(base_path: Path, *, recomputes: bool) -> tuple[float, int]:
    """Of a process that does nothing else, beyond what it has once there was a small step."""
    torch.set_num_threads(1)
    learner = Learner(
        load_base(base_path, "fp32"), jobs.config(base_path, micro_batch_tokens=NUM_TOKENS)
    )
    learner._recomputes = recomputes
    step(learner, 8, 16)
    need = learner.memory_need(LENGTH)
    assert need is not None
    planned = need.recomputed_bytes if recomputes else need.kept_bytes
    # The moments are there already.
    planned -= (STATE_BYTES - 4) * learner._num_parameters
    before = resident_bytes("VmRSS")
    for _ in range(2):
        step(learner, LENGTH, NUM_TOKENS)
    return planned, resident_bytes("VmHWM") - before


@pytest.fixture(scope="module")
def deep_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a base that is large enough for a block to count, and small enough for a test."""
    path = tmp_path_factory.mktemp("deep")
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=16,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_step_takes_what_is_planned_and_not_much_less(deep_path: Path, recomputes: bool) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        planned, taken = pool.submit(planned_and_taken, deep_path, recomputes=recomputes).result()
    assert 0.4 * planned < taken < planned
