"""What a supervisor and its trainer process say to each other, one JSON object a line.

Commands and answers go down the trainer's stdin, reports and requests come up its stdout. The end of stdin means that the
supervisor is gone, and the trainer exits at once. This file is all that a supervisor needs to import: no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, model_validator

# Part of what is said, and imported from here.
from .methods import Classification as Classification
from .methods import Dpo as Dpo
from .methods import Label as Label
from .methods import Message as Message
from .methods import Method as Method
from .methods import Supervised as Supervised
from .methods import Unsupervised as Unsupervised

SMALL_PASS_TOKENS = 128
"""A forward and backward of more tokens is made alone. Of so many, eight made as one take a fifth less time than one after
the other, of 25 tokens two fifths, of 200 a tenth (bench/results.md)."""
StopReason = Literal["cancel", "checkpoint"]
Table = dict[str, dict[str, float]]
"""Numbers by row and column."""


class _LowRank(Message):
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    """The last names of the layers: q_proj, …, down_proj."""
    use_rslora: bool = False
    """The product counts by alpha / sqrt(rank), not by alpha / rank."""


class Lora(_LowRank):
    """Matrices of a low rank beside linear layers."""

    kind: Literal["lora"] = "lora"


class Classifier(_LowRank):
    """LoRA, and beside the output layer one that has a row for each label."""

    kind: Literal["classifier"] = "classifier"
    labels: tuple[str, ...]
    """In the order of the rows."""


class Prefix(Message):
    """Keys and values before those of every text."""

    kind: Literal["prefix"] = "prefix"
    num_virtual_tokens: int


class OutputLayers(Message):
    """The last blocks and the norm behind them."""

    kind: Literal["output_layers"] = "output_layers"
    num_blocks: int
    train_head: bool = False
    """The output layer too, as a matrix of its own where the base's is its embedding."""


class Full(Message):
    """Every parameter."""

    kind: Literal["full"] = "full"


Trainable = Annotated[Lora | Classifier | Prefix | OutputLayers | Full, Field(discriminator="kind")]
"""What a job changes."""
LrSchedule = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"]
"""What becomes of the learning rate, by the names that transformers has for it."""


class EarlyStopping(Message):
    """The job ends at the end of an epoch that is one too many without a gain."""

    metric: str
    """One that is measured at the end of each epoch."""
    patience: int
    """Epochs in a row without a gain that end the job."""
    min_delta: float = 0.0
    """What is less, or just as much, is no gain."""


class TrainConfig(Message):
    """A fine-tuning job with every "auto" resolved; all that training depends on beside the files.

    It is kept for as long as its job runs, in the job's row and in each checkpoint. So a later version reads
    what an earlier one wrote: a field that comes anew has a default with which nothing changes.
    """

    method: Method = Supervised()
    trainable: Trainable
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
    max_seq_len: int
    micro_batch_tokens: int = 1024
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    num_threads: int = 0
    """0 leaves torch's own choice."""
    lr_schedule: LrSchedule = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """0 leaves gradients as they are."""
    dropout: float = 0.0
    """Of what a LoRA adapter reads."""
    neftune_noise_alpha: float = 0.0
    """How much noise is on the embeddings of what is trained on (arXiv 2310.05914)."""
    loraplus_ratio: float = 1.0
    """The rate of LoRA's B beside that of its A (arXiv 2402.12354)."""
    early_stopping: EarlyStopping | None = None
    shared: Literal["auto", "never"] = "never"
    """Whether small passes may be computed together with other jobs', which changes their last digits."""
    eval_interval_steps: int = 10
    eval_batch_size: int = 8
    """Examples in the rotating validation batch."""
    checkpoint_interval_s: float = 60
    """At least; longer where writing one takes a while. 0: one after each step."""

    @property
    def num_virtual_tokens(self) -> int:
        """Of the context of a base, what is not left to the texts."""
        return self.trainable.num_virtual_tokens if isinstance(self.trainable, Prefix) else 0

    @property
    def may_share(self) -> bool:
        """Whether its small passes may be computed together with other jobs', by all that is said here."""
        is_random = self.dropout > 0 or self.neftune_noise_alpha > 0
        return self.shared == "auto" and isinstance(self.trainable, Lora) and not is_random

    @model_validator(mode="before")
    @classmethod
    def _read_first_form(cls, fields: Any) -> Any:
        """In the first form a method was a name, and LoRA's numbers stood beside the common ones."""
        if not isinstance(fields, dict) or "trainable" in fields:
            return fields
        common = {name: value for name, value in fields.items() if name not in Lora.model_fields}
        lora = {name: value for name, value in fields.items() if name in Lora.model_fields}
        method = {"kind": common.get("method", "supervised")}
        return {**common, "method": method, "trainable": {"kind": "lora", **lora}}


class Start(Message):
    """Train a job. Paths are local and absolute."""

    kind: Literal["start"] = "start"
    job_id: str
    config: TrainConfig
    training_set: str
    """The folder of a `dataset.tokenized.Dataset`."""
    validation_set: str | None = None
    output_dir: str
    resume_from: str | None = None
    """An unpacked checkpoint directory of this job."""
    share: str = ""
    """Jobs of one trainer take turns; those of a share have one together."""
    init_artifact: str | None = None
    """A directory in the format of its kind, when the job continues from a tuned model."""
    init_kind: str | None = None
    """None for the trainable's own."""
    merges_init: bool = False
    """That model is merged into the base first, and what trains begins anew on top of it."""


class Stop(Message):
    """Before the next optimizer step. "checkpoint" writes one of the last finished step first, "cancel" nothing."""

    kind: Literal["stop"] = "stop"
    job_id: str
    reason: StopReason


class Exit(Message):
    """Leave in good order."""

    kind: Literal["exit"] = "exit"


class Ping(Message):
    """Does anybody answer?"""

    kind: Literal["ping"] = "ping"


class Pong(Message):
    kind: Literal["pong"] = "pong"


Question = Ping
"""What a trainer may ask. With the second one: a union of them, told apart by their `kind`."""
Reply = Pong


class Request(Message):
    """The trainer wants to know something, and waits for the `Answer` of the same id."""

    kind: Literal["request"] = "request"
    id: int
    """No other request of the process has it."""
    job_id: str
    question: Question


class Answer(Message):
    kind: Literal["answer"] = "answer"
    id: int
    """The request's."""
    reply: Reply


class Ready(Message):
    """The process has imported what it needs and reads commands."""

    kind: Literal["ready"] = "ready"
    pid: int


class Heartbeat(Message):
    """The process runs, and its main thread gets on or waits for what others do. Told every few seconds."""

    kind: Literal["heartbeat"] = "heartbeat"


class Started(Message):
    """The files are read, the base is loaded, the first step comes next."""

    kind: Literal["started"] = "started"
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


class StepMetrics(Message):
    """One optimizer step. Replayed steps yield the same, `step_time_s` excepted."""

    kind: Literal["step_metrics"] = "step_metrics"
    job_id: str
    step: int
    total_steps: int
    epoch: int
    """1-based."""
    learning_rate: float
    num_tokens: int
    """Tokens trained on since step 0."""
    step_time_s: float
    values: dict[str, float]
    """What the method measured, under the names that users read: `train_loss`, `valid_loss` …"""
    tables: dict[str, Table] = Field(default_factory=dict)
    """What of it is no single number, likewise."""


class CheckpointSaved(Message):
    """A finished directory, whose artifact `checkpoint_folder` finds. The receiver deletes it."""

    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    job_id: str
    step: int
    epoch: int
    path: str
    end_of_epoch: bool
    is_last: bool
    metrics: StepMetrics | None
    """None before the first step: what is saved then is what was computed ahead of it."""
    stopped_early: bool = False
    """It is the last one before the last step: it brought no gain, as those before it."""


class Alert(Message):
    """Something that the job's owner should look at, while it goes on."""

    kind: Literal["alert"] = "alert"
    job_id: str
    step: int
    key: str
    """What it is about; of several of one job, the first is told."""
    text: str
    level: Literal["info", "warn"] = "warn"


class Finished(Message):
    """The job is over without an error; "stopped" answers a `Stop`."""

    kind: Literal["finished"] = "finished"
    job_id: str
    outcome: Literal["succeeded", "stopped"]
    step: int
    trained_tokens: int


class Failed(Message):
    """The job is over with an error, in the words and codes of OpenAI's job errors."""

    kind: Literal["failed"] = "failed"
    job_id: str
    code: str
    message: str
    param: str | None
    is_user_error: bool
    """True when trying again with the same input cannot help."""


Command = Start | Stop | Answer | Exit
Report = (
    Ready
    | Heartbeat
    | Request
    | Started
    | StepMetrics
    | CheckpointSaved
    | Alert
    | Finished
    | Failed
)

_commands: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
_reports: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


_M = TypeVar("_M", Command, Report)


def encode(message: Command | Report) -> bytes:
    """One line with its newline."""
    return message.model_dump_json().encode() + b"\n"


def decode_command(line: bytes) -> Command:
    """What `encode` made of it. Raises ValueError for anything else."""
    return _decode(_commands, line)


def decode_report(line: bytes) -> Report:
    """What `encode` made of it. Raises ValueError for anything else."""
    return _decode(_reports, line)


def _decode(adapter: TypeAdapter[_M], line: bytes) -> _M:
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        raise ValueError(f"not a message of this pipe: {line[:200]!r}") from error
