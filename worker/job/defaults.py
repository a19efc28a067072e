"""What "auto" means for each method, and for each kind of what a job changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """What a job's owner asked for. What is "auto" gets a value, and `reasons` say why that one."""

    values: Mapping[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)

    def given(self, name: str, automatic: Any, reason: str) -> Any:
        asked = self.values.get(name, "auto")
        if asked not in (None, "auto"):
            return asked
        self.reasons[name] = reason
        return automatic


@dataclass(frozen=True)
class Defaults:
    """Where nothing is said, what suits supervised fine-tuning of LoRA."""

    epochs: int | None = None
    """None: by the number of examples."""
    batch_tokens: int | None = None
    """Of a step; None: a batch is a share of the examples."""
    batch_bounds: tuple[int, int] | None = None
    """Of a batch that is as large as the steps that are left allow; None likewise."""
    learning_rate_factor: float = 1.0
    """Beside supervised fine-tuning."""
    large_learning_rate_factor: float | None = None
    """The same for bases of more than a billion parameters; None if it is the same."""
    min_rank: int = 8
    max_rank: int = 64


LARGE = 10**9
"""Parameters; bases of more are large ones."""


@dataclass(frozen=True)
class TrainableDefaults:
    """Where nothing is said, what suits LoRA."""

    learning_rate_factor: float = 1.0
    """Beside LoRA's."""
    max_learning_rate: float = math.inf
    """Of the automatic one."""
    min_batch_size: int = 1
    max_batch_size: int = 32
    """Adapters take large batches less well than whole models do."""
    min_epochs: int = 1
    max_epochs: int = 25
    """Both of the number that goes by the examples."""


OF_LORA = TrainableDefaults()
# "LoRA Without Regret" (Thinking Machines, 2025-09) finds LoRA's best rate at ten times that of full tuning, and
# that large batches suit whole models better. The rest are estimates for bases of 100M to 8B parameters: what is
# the base's own moves less than an adapter that begins at nothing, and learns by heart sooner; keys and values are
# numbers of size 1 to 10 and take steps to match, up to 3e-2, where their training begins to swing.
OF_TRAINABLES = {
    "lora": OF_LORA,
    "classifier": OF_LORA,
    "prefix": TrainableDefaults(
        learning_rate_factor=10.0,
        max_learning_rate=3e-2,
        min_batch_size=8,
        min_epochs=3,
        max_epochs=10,
    ),
    "output_layers": TrainableDefaults(
        learning_rate_factor=0.2, min_batch_size=16, max_batch_size=64, max_epochs=3
    ),
    "full": TrainableDefaults(
        learning_rate_factor=0.1, min_batch_size=16, max_batch_size=64, max_epochs=3
    ),
}

# SimPO's paper (arXiv 2405.14734) takes betas of 2 to 2.5 mostly, and margins of half of that or less.
SIMPO_BETA = 2.0
SIMPO_MARGIN = 0.5
"""Its gamma, as a share of beta."""

DEFAULTS = {
    "supervised": Defaults(),
    # Labels are answers, short ones: that there are few tokens to learn is in the rank already.
    "classification": Defaults(),
    # For bases of 100M to 8B parameters, estimates: texts hold far more than conversations do, which takes the
    # high ranks of the continued pre-training in "LoRA Learns Less and Forgets Less" (arXiv 2405.09673), and a
    # lower rate and a single epoch against forgetting.
    "unsupervised": Defaults(
        epochs=1, batch_tokens=32_768, learning_rate_factor=0.5, min_rank=64, max_rank=256
    ),
    # TRL's default rate for DPO is a twentieth of that for supervised fine-tuning (1e-6 and 2e-5), tinker-cookbook's
    # as well (1e-5 and 2e-4); small bases take twice of that, which is an estimate, as the bounds of a batch are. TRL's
    # beta and its single epoch.
    "dpo": Defaults(
        epochs=1, batch_bounds=(8, 32), learning_rate_factor=0.1, large_learning_rate_factor=0.05
    ),
}
