"""What is known of a job once its rows are tokenised and nothing of it is "auto" any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from storage.models.architecture import Architecture

from .speed import JobWork

FORWARD = 1 / 3
"""What a token costs that is only measured, beside one that is learnt from: no backward."""


@dataclass(frozen=True)
class Plan:
    base_model: str
    method: str
    kind: str
    """Of what trains."""
    precision: str
    """As asked for: with "auto", the host decides."""
    shape: Architecture
    tuning: Mapping[str, Any]
    """As the job's `tuning` says it, with numbers."""
    merged_bytes: int
    """What merging another model into the base first takes besides."""

    num_rows: int
    num_examples: int
    num_tokens: int
    """In one epoch, after truncation."""
    num_learnt_tokens: int
    """Likewise, those that are learnt."""
    num_truncated: int
    num_left_out: int
    longest: int
    num_valid_examples: int
    num_valid_tokens: int

    n_epochs: int
    batch_size: int
    max_seq_len: int
    micro_batch_tokens: int
    eval_interval_steps: int
    eval_batch_size: int
    learning_rate: float

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**{**told, "shape": Architecture(**told["shape"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_examples // self.batch_size)

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.n_epochs

    @property
    def trained_tokens(self) -> int:
        return self.num_tokens * self.n_epochs

    @property
    def num_tokens_at_a_time(self) -> int:
        return max(self.micro_batch_tokens, self.longest)

    @property
    def work(self) -> JobWork:
        measured = float(self.num_valid_tokens * self.n_epochs)
        if self.num_valid_examples:
            rounds = self.num_steps // self.eval_interval_steps
            size = min(self.eval_batch_size, self.num_valid_examples)
            measured += rounds * size * self.num_valid_tokens / self.num_valid_examples
        if self.method == "dpo":
            # The model that it is compared with reads everything once.
            measured += self.num_tokens + self.num_valid_tokens
        return JobWork(
            tokens=self.trained_tokens + FORWARD * measured,
            steps=self.num_steps,
            num_parameters=self.shape.num_parameters,
        )
