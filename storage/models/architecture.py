"""What is to be known of a base before it is trained, from its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import base_models
from .base_models import BaseModel


@dataclass(frozen=True)
class Architecture:
    hidden_size: int
    family: str
    parameters_per_rank: int
    """Trainable parameters that one more rank adds."""
    num_blocks: int
    num_parameters: int
    """Of its matrices, which is about all of them."""
    parameters_per_block: int
    parameters_per_virtual_token: int
    """Trainable parameters that one more token of a prefix adds."""
    head_parameters: int
    parameters_of_target: Mapping[str, int]
    """Of the linear layers of one block, by their last names."""
    num_heads: int = 1

    @classmethod
    def read(cls, config: Mapping[str, Any], family: str) -> Architecture:
        """Raises KeyError for a config that is none of a decoder-only language model."""
        hidden = int(config["hidden_size"])
        inner = int(config["intermediate_size"])
        heads = int(config["num_attention_heads"])
        head_size = int(config.get("head_dim") or hidden // heads)
        query = heads * head_size
        keys = int(config.get("num_key_value_heads") or heads) * head_size
        attention = 2 * (hidden + query) + 2 * (hidden + keys)
        layer = attention + 3 * (hidden + inner)
        num_blocks = int(config["num_hidden_layers"])
        block = 2 * hidden * (query + keys) + 3 * hidden * inner
        is_tied = bool(config.get("tie_word_embeddings", False))
        head = int(config.get("vocab_size") or 0) * hidden
        return cls(
            hidden_size=hidden,
            family=family,
            parameters_per_rank=layer * num_blocks,
            num_blocks=num_blocks,
            num_parameters=block * num_blocks + head * (1 if is_tied else 2),
            parameters_per_block=block,
            parameters_per_virtual_token=2 * keys * num_blocks,
            head_parameters=head,
            parameters_of_target={
                "q_proj": hidden * query,
                "k_proj": hidden * keys,
                "v_proj": hidden * keys,
                "o_proj": query * hidden,
                "gate_proj": hidden * inner,
                "up_proj": hidden * inner,
                "down_proj": inner * hidden,
            },
            num_heads=heads,
        )


def known(bases_dir: Path, base: BaseModel) -> Architecture | None:
    """None where the base's files are not on this machine, or not yet, or cannot be read."""
    file = base_models.path(bases_dir, base) / "config.json"
    try:
        return Architecture.read(json.loads(file.read_text(encoding="utf-8")), base.family)
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return None
