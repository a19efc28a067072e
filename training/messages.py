"""What a supervisor and its trainer process say to each other, one JSON object a line.

Commands go down the trainer's stdin, reports come up its stdout. The end of stdin means that the
supervisor is gone, and the trainer exits at once. This file is all that a supervisor needs to
import: plain dataclasses, no torch.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A fine-tuning job with every "auto" resolved; all that training depends on beside the files."""

    method: Literal["supervised"] = "supervised"
    base_model: str
    base_path: str
    n_epochs: int
    batch_size: int
    """Examples in one optimizer step."""
    learning_rate_multiplier: float
    """What the user asked for; already part of `learning_rate`."""
    learning_rate: float
    """The peak, reached at the end of the warm-up."""
    warmup_steps: int
    seed: int
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    """The last names of the linear layers that get an adapter: q_proj, …, down_proj."""
    max_seq_len: int
    micro_batch_tokens: int = 1024
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_threads: int = 0
    """0 leaves torch's own choice."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    eval_interval_steps: int = 10
    eval_batch_size: int = 8
    """Examples in the rotating validation batch."""
    checkpoint_interval_s: float = 60


@dataclass(frozen=True, kw_only=True)
class Start:
    """Train a job. Paths are local and absolute."""

    job_id: str
    config: TrainConfig
    training_set: str
    """The folder of a `dataset.tokenized.Dataset`."""
    validation_set: str | None = None
    output_dir: str
    resume_from: str | None = None
    """An unpacked checkpoint directory of this job."""
    init_adapter: str | None = None
    """An unpacked PEFT directory, when the job continues from a tuned model."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Stop before the next optimizer step.

    "cancel" writes nothing; "checkpoint" writes a checkpoint of the last finished step first.
    """

    job_id: str
    reason: Literal["cancel", "checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Exit:
    """Leave in good order."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The process has imported what it needs and reads commands."""

    pid: int


@dataclass(frozen=True, kw_only=True)
class Started:
    """The files are read, the base is loaded, the first step comes next."""

    job_id: str
    num_examples: int
    num_tokens: int
    """In one epoch, after truncation to max_seq_len."""
    num_supervised_tokens: int
    """In one epoch: those with a weight above zero."""
    total_steps: int
    step: int
    """Steps already done: 0, or the resume point."""
    precision: str
    exact_resume: bool
    """False when the software or the machine differs from what wrote the checkpoint."""
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One optimizer step. Replayed steps yield the same values, `step_time_s` excepted."""

    job_id: str
    step: int
    total_steps: int
    epoch: int
    """1-based."""
    train_loss: float
    train_mean_token_accuracy: float
    learning_rate: float
    num_tokens: int
    """Tokens trained on since step 0."""
    step_time_s: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A finished directory, whose artifact `checkpoint_folder` finds. The receiver deletes it."""

    job_id: str
    step: int
    epoch: int
    path: str
    end_of_epoch: bool
    is_last: bool
    metrics: StepMetrics


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The job is over without an error; "stopped" answers a `Stop`."""

    job_id: str
    outcome: Literal["succeeded", "stopped"]
    step: int
    trained_tokens: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job is over with an error, in the words and codes of OpenAI's job errors."""

    job_id: str
    code: str
    message: str
    param: str | None
    is_user_error: bool
    """True when trying again with the same input cannot help."""


Command = Start | Stop | Exit
Report = Ready | Started | StepMetrics | CheckpointSaved | Finished | Failed

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(Start, Stop, Exit),
        *(Ready, Started, StepMetrics, CheckpointSaved, Finished, Failed),
    )
}


def encode(message: Command | Report) -> bytes:
    """One line with its newline: the fields of the message and "kind", its class name."""
    fields = {"kind": type(message).__name__, **dataclasses.asdict(message)}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Command | Report:
    """The inverse of `encode`. Raises ValueError for anything else."""
    try:
        fields = json.loads(line)
        kind = _KINDS[fields.pop("kind")]
        if "config" in fields:
            target_modules = tuple(fields["config"].pop("target_modules"))
            fields["config"] = TrainConfig(target_modules=target_modules, **fields["config"])
        if "metrics" in fields:
            fields["metrics"] = StepMetrics(**fields["metrics"])
        message: Command | Report = kind(**fields)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a message of the trainer: {line[:200]!r}") from error
    return message
