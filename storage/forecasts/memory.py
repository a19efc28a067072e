"""How much memory a job needs, by its base's shape and what of it trains. Pure functions.

`least_bytes` is a bound from below, by which jobs are refused; `estimate_bytes` is what to expect. The trainer measures
before the first step (`training/memory.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foundation.memory import gigabytes
from storage.models.architecture import Architecture

BASE_BYTES = 2
"""Of a parameter that does not train, at least: bf16."""
ADDED_BYTES = 16
"""Of a parameter beside the base: itself, its gradient and two moments, in fp32."""
COPIED_BYTES = 18
"""Of a parameter of the base: a copy that is computed with besides."""
SPREAD = {"p05": 0.7, "p10": 0.75, "p50": 1.0, "p90": 1.25, "p95": 1.4}
RUNTIME_BYTES = {"cpu": 600_000_000, "gpu": 1_200_000_000}
"""Of a trainer that has loaded nothing yet: its libraries, or those on the GPU."""
_WORKSPACE_BYTES = 3 * 64 * 2**20
"""Logits of some positions, and what becomes of them."""
_COMFORTABLE = 0.8
"""The share of what is there up to which nothing is computed twice."""
_WIDTHS, _INNER_WIDTHS = 8, 4
"""What a block keeps of a token for backward: so many vectors as wide as the model, and as its inner layer."""
_ATTENDED = (512 + 128) / 2
"""Places that written-out attention keeps a token's weights of, on a processor."""
LEAST = {"rank": 8, "length": 2, "blocks": 1}
"""What is taken for an option that is left to the server, as long as it has not chosen."""
SMALLEST: tuple[Mapping[str, Any], ...] = (
    {"type": "output_layers", "blocks": 1},
    {"type": "lora", "rank": LEAST["rank"]},
    {"type": "prefix", "length": LEAST["length"]},
)
"""Of each kind that trains less than all. A tuning is told as the job's `tuning` says it."""

Tuning = Mapping[str, Any]


def num_trained(shape: Architecture, tuning: Tuning) -> int:
    """Parameters. What is "auto" or left out counts as little as it may."""

    def number(option: str) -> int:
        asked = tuning.get(option, "auto")
        return LEAST[option] if asked in ("auto", None) else int(asked)

    match tuning["type"]:
        case "lora":
            return number("rank") * shape.parameters_per_rank
        case "prefix":
            return number("length") * shape.parameters_per_virtual_token
        case "output_layers":
            head = shape.head_parameters if tuning.get("head") is True else 0
            return number("blocks") * shape.parameters_per_block + head
    return shape.num_parameters


def state_bytes(shape: Architecture, tuning: Tuning) -> int:
    """Of what trains: weights, gradients and moments."""
    each = COPIED_BYTES if tuning["type"] in ("full", "output_layers") else ADDED_BYTES
    return each * num_trained(shape, tuning)


def least_bytes(shape: Architecture, tuning: Tuning, longest: int = 0) -> int:
    """The base, what trains, and of the longest example what cannot be computed again: the vectors that blocks read."""
    return (
        BASE_BYTES * shape.num_parameters
        + state_bytes(shape, tuning)
        + longest * _read_bytes(shape, tuning)
    )


def _read_bytes(shape: Architecture, tuning: Tuning) -> int:
    """Of a token, in the blocks that gradients go through."""
    blocks = shape.num_blocks
    if tuning["type"] == "output_layers":
        asked = tuning.get("blocks", "auto")
        blocks = LEAST["blocks"] if asked in ("auto", None) else int(asked)
    return BASE_BYTES * shape.hidden_size * blocks


def longest_that_fits(shape: Architecture, tuning: Tuning, limit: int) -> int:
    """Tokens of an example; 0 if the job does not fit however short they are."""
    room = limit - least_bytes(shape, tuning)
    return max(room // _read_bytes(shape, tuning), 0)


def would_fit(shape: Architecture, tuning: Tuning, limit: int, longest: int = 0) -> list[str]:
    """Ways to make the job fit into so many bytes, as one reads them. The first changes least."""
    found = []
    shorter = longest_that_fits(shape, tuning, limit)
    if shorter >= 16:
        found.append(f"examples of {shorter} tokens at most (luthier.max_seq_len)")
    rank = tuning.get("rank")
    if tuning["type"] == "lora" and isinstance(rank, int):
        base = {**tuning, "rank": 1}
        left = limit - least_bytes(shape, base, longest)
        smaller = 1 + left // (ADDED_BYTES * shape.parameters_per_rank)
        if 1 <= smaller < rank:
            found.append(f"a rank of {smaller} at most")
    others = []
    for other in SMALLEST:
        needed = least_bytes(shape, other, longest)
        if needed <= limit:
            others.append(f"{other['type']} ({gigabytes(needed)} and more)")
    if others:
        found.append(f"the tuning {' or '.join(others)}")
    return found or ["a smaller base"]


def estimate_bytes(
    shape: Architecture,
    tuning: Tuning,
    *,
    itemsize: int,
    num_tokens: int,
    available: int | None,
    has_gpu: bool,
) -> int:
    """What the trainer will take, with its libraries; `num_tokens` are computed at a time."""
    fixed = (
        itemsize * shape.num_parameters
        + state_bytes(shape, tuning)
        + _WORKSPACE_BYTES
        + RUNTIME_BYTES["gpu" if has_gpu else "cpu"]
    )
    inner = shape.parameters_of_target["up_proj"] // shape.hidden_size
    block = itemsize * (_WIDTHS * shape.hidden_size + _INNER_WIDTHS * inner)
    if not has_gpu:
        block += int(itemsize * shape.num_heads * _ATTENDED)
    blocks = shape.num_blocks
    if tuning["type"] == "output_layers":
        blocks = min(_read_bytes(shape, tuning) // (BASE_BYTES * shape.hidden_size), blocks)
    kept = fixed + num_tokens * block * blocks
    if available is None or kept <= _COMFORTABLE * available:
        return kept
    return fixed + num_tokens * (itemsize * shape.hidden_size * blocks + block)
