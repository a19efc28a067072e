"""What `luthier jobs create` can be told of how a job learns.

An option that is left out is the server's to choose, and so are the bounds of those that are given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from .job_fields import MethodName, TuningName, fields


class LossType(StrEnum):
    DPO = "dpo"
    IPO = "ipo"
    SIMPO = "simpo"
    ORPO = "orpo"


class Schedule(StrEnum):
    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"


class Kept(StrEnum):
    LAST = "last"
    BEST = "best"


class ReportDepth(StrEnum):
    AUTO = "auto"
    FULL = "full"
    OFF = "off"


class Shared(StrEnum):
    AUTO = "auto"
    NEVER = "never"


_METHOD, _TUNING, _CONTROL = (
    {"rich_help_panel": panel}
    for panel in ("How it learns", "What of the model changes", "How training runs")
)


def _method_options(
    *,
    method: Annotated[
        MethodName,
        typer.Option(
            help="What the rows teach: `supervised` to answer like their last turns, `unsupervised` to write like "
            "their texts, `classification` to choose one of their labels, `dpo` to prefer one answer to another.",
            **_METHOD,
        ),
    ] = MethodName.SUPERVISED,
    n_epochs: Annotated[
        int | None, typer.Option(help="Times through the training file.", **_METHOD)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples that one step learns from.", **_METHOD)
    ] = None,
    learning_rate_multiplier: Annotated[
        float | None,
        typer.Option(
            help="Factor on the learning rate, which goes by base, method and tuning: 2 learns twice as fast, "
            "and diverges sooner.",
            **_METHOD,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="unsupervised: tokens of a long text that its next piece reads again, as context.",
            **_METHOD,
        ),
    ] = None,
    head: Annotated[
        bool | None,
        typer.Option(
            "--head",
            help="classification: labels are rows of an output layer of their own, not words to write. Pays from "
            "some twenty labels on.",
            **_METHOD,
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            metavar="balanced|LABEL=NUMBER,…",
            help="classification: how much the examples of each label count; `balanced` lets rare labels count as "
            "much as frequent ones.",
            **_METHOD,
        ),
    ] = None,
    positive_class: Annotated[
        str | None,
        typer.Option(
            help="classification: of two labels the one that is searched for, of which precision and recall are "
            "measured.",
            **_METHOD,
        ),
    ] = None,
    n_classes: Annotated[
        int | None,
        typer.Option(
            help="classification: so many labels the file must have, else the job fails.", **_METHOD
        ),
    ] = None,
    betas: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER,…",
            help="classification: which F-scores are measured; 1 weighs precision and recall alike.",
            **_METHOD,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="dpo: how dearly it pays to go away from the model that training begins with.",
            **_METHOD,
        ),
    ] = None,
    loss_type: Annotated[
        LossType | None,
        typer.Option(
            help="dpo: `ipo` stops widening a gap that is wide enough, for few or noisy pairs; `simpo` and `orpo` need "
            "no model to compare with, and `orpo` teaches to write the better answers too.",
            **_METHOD,
        ),
    ] = None,
    gamma: Annotated[
        float | None,
        typer.Option(
            help="dpo: by how much the better answer's reward shall lead, with `--loss-type simpo`.",
            **_METHOD,
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            help="dpo: the share of pairs that may be the wrong way round, 0 to 0.5.", **_METHOD
        ),
    ] = None,
    sft_weight: Annotated[
        float | None,
        typer.Option(
            help="dpo: how much writing the better answer counts besides preferring it.", **_METHOD
        ),
    ] = None,
) -> None:
    """How a job learns."""


def _tuning_options(
    *,
    tuning: Annotated[
        TuningName | None,
        typer.Option(
            help="`lora` adds small matrices to the model's layers (the default: little memory, hardly worse than "
            "all), `prefix` puts trained context before every text, `output_layers` changes the last blocks, `full` "
            "everything.",
            **_TUNING,
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="lora: size of its matrices; more holds more.", **_TUNING),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="lora: it counts by alpha / rank beside the model's weights.", **_TUNING),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…", help="lora: the layers that get one: q_proj,v_proj …", **_TUNING
        ),
    ] = None,
    rslora: Annotated[
        bool | None,
        typer.Option(
            "--rslora", help="lora: it counts by alpha / √rank, for high ranks.", **_TUNING
        ),
    ] = None,
    prefix_length: Annotated[
        int | None,
        typer.Option(
            help="prefix: so many tokens long; they are taken from the room for texts.", **_TUNING
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(help="output_layers: so many of the last blocks.", **_TUNING),
    ] = None,
    train_head: Annotated[
        bool | None,
        typer.Option(
            "--train-head", help="output_layers: the layer that makes words, too.", **_TUNING
        ),
    ] = None,
) -> None:
    """What of the model changes."""


def _control_options(
    *,
    lr_schedule: Annotated[
        Schedule | None,
        typer.Option(help="What becomes of the learning rate on the way.", **_CONTROL),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(help="So many steps long the learning rate rises.", **_CONTROL),
    ] = None,
    warmup_ratio: Annotated[
        float | None, typer.Option(help="The same as a share of all steps, 0 to 1.", **_CONTROL)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Pulls what trains toward zero.", **_CONTROL)
    ] = None,
    max_grad_norm: Annotated[
        float | None,
        typer.Option(help="Steeper gradients are cut to this; 0 cuts none.", **_CONTROL),
    ] = None,
    max_seq_len: Annotated[
        int | None,
        typer.Option(help="Tokens of an example; the rest is cut off or made another.", **_CONTROL),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            help="The share of its input that LoRA does without, at random, against learning by heart.",
            **_CONTROL,
        ),
    ] = None,
    neftune_noise_alpha: Annotated[
        float | None,
        typer.Option(
            help="Noise on the embeddings, 5 for example, against learning by heart.", **_CONTROL
        ),
    ] = None,
    loraplus_ratio: Annotated[
        float | None,
        typer.Option(
            help="How much faster LoRA's second matrices learn; 1 is as fast.", **_CONTROL
        ),
    ] = None,
    shared: Annotated[
        Shared | None,
        typer.Option(
            help="Whether small steps may be computed with other jobs' (`auto`), or repeat to the bit (`never`).",
            **_CONTROL,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop early, after so many epochs in a row without a gain on the validation file.",
            **_CONTROL,
        ),
    ] = None,
    min_delta: Annotated[
        float | None,
        typer.Option(help="With --patience: what is less is no gain.", **_CONTROL),
    ] = None,
    stop_metric: Annotated[
        str | None,
        typer.Option(
            help="With --patience: the figure that has to gain; the loss, full_valid_loss, by default.",
            **_CONTROL,
        ),
    ] = None,
    keep: Annotated[
        Kept | None,
        typer.Option(
            help="Which epoch becomes the model: the `last`, or the `best` on the validation file.",
            **_CONTROL,
        ),
    ] = None,
    best_metric: Annotated[
        str | None,
        typer.Option(help="With --keep best: the figure that it is best by.", **_CONTROL),
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help="A question that the model is asked before training and after each epoch; may be repeated.",
            **_CONTROL,
        ),
    ] = None,
    report: Annotated[
        ReportDepth | None,
        typer.Option(
            help="What is measured afterwards of what it learnt: `auto`, `full` (hours of asking), or `off`.",
            **_CONTROL,
        ),
    ] = None,
) -> None:
    """How training runs: the server's `luthier` in the hyperparameters."""


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command all of these options; it gets, as `asked`, the fields of the request that they come to."""
    groups = [
        list(inspect.signature(group, eval_str=True).parameters.values())
        for group in (_method_options, _tuning_options, _control_options)
    ]

    @functools.wraps(command)
    def with_fields(*args: Any, **own: Any) -> None:
        of_method, of_tuning, of_control = (
            {p.name: v for p in group if (v := own.pop(p.name)) not in (None, [])}
            for group in groups
        )
        command(*args, **own, asked=fields(of_method, of_tuning, of_control))

    own = inspect.signature(command, eval_str=True).parameters.values()
    kept = [p.replace(kind=p.KEYWORD_ONLY) if p.default is not p.empty else p for p in own]
    parameters = [*(p for p in kept if p.name != "asked"), *(p for g in groups for p in g)]
    parameters.sort(key=lambda p: p.kind)
    with_fields.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_fields.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_fields
