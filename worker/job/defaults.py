"""What "auto" means for each method."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """Where nothing is said, what suits supervised fine-tuning of LoRA."""

    epochs: int | None = None
    """None: by the number of examples."""
    batch_tokens: int | None = None
    """Of a step; None: a batch is a share of the examples."""
    learning_rate_factor: float = 1.0
    """Beside supervised fine-tuning."""
    min_rank: int = 8
    max_rank: int = 64


DEFAULTS = {
    "supervised": Defaults(),
    # For bases of 100M to 8B parameters, estimates: texts hold far more than conversations do, which takes the
    # high ranks of the continued pre-training in "LoRA Learns Less and Forgets Less" (arXiv 2405.09673), and a
    # lower rate and a single epoch against forgetting.
    "unsupervised": Defaults(
        epochs=1, batch_tokens=32_768, learning_rate_factor=0.5, min_rank=64, max_rank=256
    ),
}
