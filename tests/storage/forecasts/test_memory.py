"""What jobs need, and what would fit where one does not."""

from __future__ import annotations

from typing import Any

import pytest

from storage.forecasts import memory
from storage.models.architecture import Architecture

SHAPE = Architecture.read(
    {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "num_hidden_layers": 30,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama",
)
LORA: dict[str, Any] = {"type": "lora", "rank": 16}


def test_what_is_left_to_the_server_counts_as_little_as_it_may() -> None:
    for kind, option in (("lora", "rank"), ("prefix", "length"), ("output_layers", "blocks")):
        auto = memory.num_trained(SHAPE, {"type": kind, option: "auto"})
        assert auto == memory.num_trained(SHAPE, {"type": kind})
        least = memory.LEAST[option]
        assert auto == memory.num_trained(SHAPE, {"type": kind, option: least})
        assert memory.num_trained(SHAPE, {"type": kind, option: least + 1}) > auto
    assert memory.num_trained(SHAPE, {"type": "full"}) == SHAPE.num_parameters


def test_a_long_example_needs_what_its_blocks_read() -> None:
    added = memory.least_bytes(SHAPE, LORA, 1000) - memory.least_bytes(SHAPE, LORA)
    assert added == 1000 * 2 * 576 * 30
    # Where the last block alone trains, no gradient goes through the others.
    layers = {"type": "output_layers", "blocks": 1}
    assert memory.least_bytes(SHAPE, layers, 1000) - memory.least_bytes(SHAPE, layers) == (
        1000 * 2 * 576
    )


@pytest.mark.parametrize("longest", [0, 500, 4000])
def test_what_would_fit_fits(longest: int) -> None:
    limit = memory.least_bytes(SHAPE, LORA, longest) - 1
    shorter = memory.longest_that_fits(SHAPE, LORA, limit)
    assert shorter < max(longest, 1)
    assert memory.least_bytes(SHAPE, LORA, shorter) <= limit or shorter == 0
    mends = " ".join(memory.would_fit(SHAPE, LORA, limit, longest))
    assert ("luthier.max_seq_len" in mends) == (longest > 0)
    rank = int(mends.split("a rank of ")[1].split()[0])
    assert memory.least_bytes(SHAPE, {"type": "lora", "rank": rank}, longest) <= limit
    assert memory.least_bytes(SHAPE, {"type": "lora", "rank": rank + 1}, longest) > limit
    assert memory.would_fit(SHAPE, LORA, 1000) == ["a smaller base"]


def test_the_estimate_is_above_the_bound_and_computes_twice_where_room_is_short() -> None:
    def estimate(available: int | None, num_tokens: int = 2048) -> int:
        return memory.estimate_bytes(
            SHAPE,
            LORA,
            itemsize=2,
            num_tokens=num_tokens,
            available=available,
            has_gpu=False,
        )

    ample, tight = estimate(10**12), estimate(10**9)
    assert estimate(None) == ample > tight > memory.least_bytes(SHAPE, LORA, 2048)
    # Half a megabyte to one of a token, where everything is kept.
    assert 0.5e6 < (ample - estimate(None, 1024)) / 1024 < 1e6
