"""Does a job fit into memory, and what of it is better computed twice than kept? Decided before the first step."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from foundation import memory
from foundation.memory import gigabytes
from modeling.attention import MAX_WRITTEN_TOKENS
from modeling.recompute import Kept
from modeling.written_attention import TILE_TOKENS

from .batches import MicroBatch, ScoredRow, micro_batches

PROBE_TOKENS = 32
STATE_BYTES = 12
"""Of a trained parameter: its gradient and two moments, in fp32."""
_WORKSPACE_BYTES = 3 * 64 * 2**20
"""Logits of some positions, and what becomes of them."""
_BACKWARD_FACTOR = 1.25
"""Beside what was kept, backward holds the gradients that it is at."""
_HOLES_FACTOR = 1.5
"""Where blocks are computed again, the C library's heap has holes between what the blocks read: each may be too small for
a block's widest tensor. So many of those for each block were measured, with two widths and two precisions."""
_COMFORTABLE = 0.8
"""The share of what is there up to which nothing is computed twice."""

log = logging.getLogger(__name__)


class OutOfMemory(Exception):
    """The job does not fit; the message has the numbers and what would fit."""


@dataclass(frozen=True)
class Need:
    """What training needs besides what is in memory already, and what there is."""

    state_bytes: float
    kept_per_token: float
    recomputed_per_token: float
    num_tokens: int
    """Of the largest micro-batch."""
    available_bytes: float

    @property
    def kept_bytes(self) -> float:
        """Where everything is kept for backward."""
        return self.fixed_bytes + self.kept_per_token * self.num_tokens

    @property
    def recomputed_bytes(self) -> float:
        """Where the blocks are computed again in backward."""
        return self.fixed_bytes + self.recomputed_per_token * self.num_tokens

    @property
    def must_recompute(self) -> bool:
        return self.kept_bytes > _COMFORTABLE * self.available_bytes

    @property
    def fits(self) -> bool:
        return self.recomputed_bytes <= self.available_bytes

    @property
    def fixed_bytes(self) -> float:
        return self.state_bytes + _WORKSPACE_BYTES


def told(need: Need | None) -> str:
    """The numbers, and what would fit."""
    if need is None:
        return "The machine has too little memory for this job. Shorter examples help."
    activations = need.recomputed_per_token * need.num_tokens
    text = (
        f"The machine has too little memory for this job. Besides the base it needs {gigabytes(need.recomputed_bytes)}: "
        f"{gigabytes(need.state_bytes)} for gradients and moments of what is trained, and {gigabytes(activations)} for "
        f"{need.num_tokens} tokens at a time, though what can be computed again is not kept. There are "
        f"{gigabytes(need.available_bytes)}."
    )
    room = need.available_bytes - need.fixed_bytes
    if room >= need.recomputed_per_token * PROBE_TOKENS:
        longest = int(room / need.recomputed_per_token)
        return (
            f"{text} Examples of {longest} tokens at most would fit, see luthier.max_seq_len; the batch size changes "
            "nothing, for a step is computed in parts."
        )
    return f"{text} A tuning that trains less of the base, such as lora or prefix, or a smaller base would fit sooner."


def probe(vocab_size: int) -> MicroBatch:
    """A micro-batch like any other, as small as it may be."""
    ids = np.arange(PROBE_TOKENS + 1, dtype=np.int32) % vocab_size
    row = ScoredRow(ids, np.ones(len(ids), np.bool_), np.ones(len(ids), np.float32))
    (batch,) = micro_batches([[row]], PROBE_TOKENS)
    return batch


def need(
    model: PreTrainedModel,
    num_parameters: int,
    kept: Kept,
    num_tokens: int,
    longest: int,
) -> Need | None:
    """By what a probe kept. `num_parameters` train, `num_tokens` are computed at a time. `longest` is the longest sequence.

    None where nobody says how much memory there is.
    """
    available = available_bytes(model.device)
    if available is None:
        return None
    config, itemsize = model.config, model.dtype.itemsize
    num_blocks = config.num_hidden_layers
    in_blocks, holes = kept.in_blocks / PROBE_TOKENS, 0.0
    if model.device.type == "cpu":
        # Written-out attention keeps its weights, more of them the longer a sequence is.
        seen = (min(longest, MAX_WRITTEN_TOKENS) + TILE_TOKENS) / 2
        in_blocks += num_blocks * config.num_attention_heads * seen * itemsize
        holes = _HOLES_FACTOR * num_blocks * config.intermediate_size * itemsize
    elsewhere = kept.elsewhere / PROBE_TOKENS
    read = num_blocks * config.hidden_size * itemsize
    kept_per_token = _BACKWARD_FACTOR * (in_blocks + elsewhere)
    recomputed = _BACKWARD_FACTOR * (read + in_blocks / num_blocks + elsewhere) + holes
    return Need(
        state_bytes=STATE_BYTES * num_parameters,
        kept_per_token=kept_per_token,
        recomputed_per_token=min(recomputed, kept_per_token),
        num_tokens=num_tokens,
        available_bytes=available,
    )


def is_ample(model: PreTrainedModel, num_parameters: int, num_tokens: int) -> bool:
    """Whether there is so much memory that nothing need be measured.

    A block keeps about twelve vectors of the model's width for a token, six of its inner width and the weights of
    its attention; twice that is far on the safe side.
    """
    available = available_bytes(model.device)
    if available is None:
        return True
    config = model.config
    seen = config.num_attention_heads * (MAX_WRITTEN_TOKENS + TILE_TOKENS) / 2
    block = 12 * config.hidden_size + 6 * config.intermediate_size + seen
    kept: float = 2 * config.num_hidden_layers * block * model.dtype.itemsize * num_tokens
    return kept + STATE_BYTES * num_parameters + _WORKSPACE_BYTES < _COMFORTABLE / 2 * available


def available_bytes(device: torch.device) -> int | None:
    """What is left for tensors now, and what torch holds without using it."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + unused
    return memory.available_bytes()


def is_out_of_memory(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError.
    is_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)
