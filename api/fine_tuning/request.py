"""The body of create-job: what may be asked for, and in which bounds. Unknown fields are tolerated."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.requests.fields import Metadata, Name, NoNul
from dataset.labels import MAX_LABELS
from foundation.errors import InvalidRequest

from .classes import Betas, ClassWeights, PositiveClass
from .control import Control
from .numbers import auto_or, auto_or_above, auto_or_whole, is_number
from .tuning import AskedTuning

MAX_SEED = 2**31 - 1
MAX_LEARNING_RATE_MULTIPLIER = 100.0
"""The automatic rate is 1e-4 to 1e-3 for any width of model. Sweeps find the best one within a factor of 4 of
it and most runs diverging from 3e-3 on, so a hundred times is far behind all that learns; yet AdamW, which moves a
weight by about the rate in a step, cannot leave the numbers that sampling can bear."""
MIN_IPO_BETA = 0.005
"""That is 100 nats a token, of which no two answers of a model that works are apart."""
_SUFFIX = re.compile(r"[A-Za-z0-9._-]+")


def _check_suffix(value: object) -> object:
    # It becomes a part of the model's name, and ":" separates those.
    if isinstance(value, str) and value and not _SUFFIX.fullmatch(value):
        raise PydanticCustomError(
            "suffix",
            "only letters, digits, '.', '_' and '-' are allowed, but got {got} instead.",
            {"got": repr(value[:70])},
        )
    return value


Tag = Annotated[str, StringConstraints(max_length=64), NoNul]
Suffix = Annotated[
    str, StringConstraints(min_length=1, max_length=64), BeforeValidator(_check_suffix)
]


class Hyperparameters(BaseModel):
    n_epochs: Annotated[Literal["auto"] | int, auto_or_whole(50)] = "auto"
    batch_size: Annotated[Literal["auto"] | int, auto_or_whole(256)] = "auto"
    learning_rate_multiplier: Annotated[
        Literal["auto"] | float, auto_or_above(0, MAX_LEARNING_RATE_MULTIPLIER)
    ] = "auto"
    luthier: Control | None = None


class UnsupervisedHyperparameters(Hyperparameters):
    overlap: Annotated[Literal["auto"] | int, auto_or_whole(minimum=0)] = "auto"
    """Tokens that a long text's next window reads again, as context."""


class ClassificationHyperparameters(Hyperparameters):
    class_weights: ClassWeights = "auto"
    """How much an example of each class counts; by default all examples count alike."""
    n_classes: Annotated[Literal["auto"] | int, auto_or_whole(MAX_LABELS, minimum=2)] = "auto"
    """So many labels the training file must have."""
    positive_class: PositiveClass = "auto"
    """Of two labels the one that precision, recall, F, AUROC and AUPRC are measured of; by default the rarer one."""
    head: Annotated[bool, Field(strict=True)] = False
    """Labels are rows of an output layer of their own, not words that are written."""
    betas: Betas = "auto"
    """Of the F-scores; by default 1."""


def _auto_or_below(end: float) -> BeforeValidator:
    return auto_or(
        f"a number from 0, below {end:g}", lambda value: is_number(value) and 0 <= value < end
    )


class DpoHyperparameters(Hyperparameters):
    """OpenAI's is `beta`."""

    loss_type: Annotated[
        str,
        auto_or(
            "'dpo', 'ipo', 'simpo' or 'orpo'",
            lambda value: value in ("dpo", "ipo", "simpo", "orpo"),
        ),
    ] = "auto"
    beta: Annotated[Literal["auto"] | float, auto_or_above(0, 2)] = "auto"
    label_smoothing: Annotated[Literal["auto"] | float, _auto_or_below(0.5)] = "auto"
    """The share of pairs that are taken to be the wrong way round."""
    gamma: Annotated[Literal["auto"] | float, _auto_or_below(20)] = "auto"
    """By how much the preferred answer's reward shall lead."""
    sft_weight: Annotated[Literal["auto"] | float, _auto_or_below(10)] = "auto"
    """How much writing the preferred answer counts besides."""

    @field_validator("beta")
    @classmethod
    def _is_a_lead_that_there_is(cls, value: object, info: ValidationInfo) -> object:
        if value == "auto" or info.data.get("loss_type") != "ipo" or float(value) >= MIN_IPO_BETA:  # type: ignore[arg-type]
            return value
        raise PydanticCustomError(
            "hyperparameter",
            "expected {least} or more with the loss_type 'ipo', which asks for a lead of 1 / (2 beta) nats a token, but got "
            "{got} instead.",
            {"least": MIN_IPO_BETA, "got": repr(value)},
        )

    @field_validator("label_smoothing", "gamma", "sft_weight")
    @classmethod
    def _is_of_the_loss(cls, value: object, info: ValidationInfo) -> object:
        loss = info.data.get("loss_type", "auto")
        loss = "dpo" if loss == "auto" else loss
        why = _OF_OTHER_LOSSES.get((info.field_name or "", loss))
        if value in ("auto", 0) or why is None:
            return value
        raise PydanticCustomError(
            "hyperparameter",
            "expected 0 with the loss_type '{loss}', which {why}.",
            {"loss": loss, "why": why},
        )


_NO_SMOOTHING = (
    "has no label smoothing; use a lower beta for pairs that may be wrong, or the loss_type 'dpo'"
)
_NO_MARGIN = "asks for no margin; use the loss_type 'simpo'"
_OF_OTHER_LOSSES = {
    **{("label_smoothing", loss): _NO_SMOOTHING for loss in ("ipo", "simpo", "orpo")},
    **{("gamma", loss): _NO_MARGIN for loss in ("dpo", "ipo", "orpo")},
    (
        "sft_weight",
        "orpo",
    ): "teaches to write the preferred answers anyway; use a lower beta for more of that",
}
"""What a loss has no use for, and what to do instead."""


class ReinforcementHyperparameters(Hyperparameters):
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"
    compute_multiplier: Annotated[Literal["auto"] | float, auto_or_above(1e-5, 10)] = "auto"
    eval_interval: Annotated[Literal["auto"] | int, auto_or_whole()] = "auto"
    eval_samples: Annotated[Literal["auto"] | int, auto_or_whole()] = "auto"


AVAILABLE_METHODS: dict[str, type[Hyperparameters]] = {
    "supervised": Hyperparameters,
    "unsupervised": UnsupervisedHyperparameters,
    "classification": ClassificationHyperparameters,
    "dpo": DpoHyperparameters,
}
"""Those that a job can be trained by, and what may be asked of each."""


class SupervisedMethod(BaseModel):
    hyperparameters: Hyperparameters | None = None


class UnsupervisedMethod(BaseModel):
    hyperparameters: UnsupervisedHyperparameters | None = None


class ClassificationMethod(BaseModel):
    hyperparameters: ClassificationHyperparameters | None = None


class DpoMethod(BaseModel):
    hyperparameters: DpoHyperparameters | None = None


class Grader(BaseModel):
    """Any field beside these is the grader's own."""

    model_config = ConfigDict(extra="allow")
    type: Literal[
        "string_check", "text_similarity", "score_model", "label_model", "python", "multi"
    ]


class ReinforcementMethod(BaseModel):
    grader: Grader
    hyperparameters: ReinforcementHyperparameters | None = None
    response_format: dict[str, Any] | None = None


class Method(BaseModel):
    """Blocks of the other methods may stand beside that of `type`; they mean nothing."""

    type: Literal["supervised", "unsupervised", "classification", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    unsupervised: UnsupervisedMethod | None = None
    classification: ClassificationMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: ReinforcementMethod | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_other_blocks(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: block for key, block in value.items() if key in ("type", value.get("type"))}


class Wandb(BaseModel):
    project: Name
    name: Name | None = None
    entity: Name | None = None
    tags: Annotated[list[Tag], Field(max_length=50)] | None = None


class Integration(BaseModel):
    type: Literal["wandb"]
    wandb: Wandb


class CreateFineTuningJob(BaseModel):
    model: Name
    training_file: Name
    validation_file: Name | None = None
    suffix: Suffix | None = None
    seed: Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)] | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    tuning: AskedTuning | None = None
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Metadata | None = None

    def method_type(self) -> str:
        """Raises InvalidRequest for a method that cannot be trained."""
        kind = self.method.type if self.method else "supervised"
        if self.method and kind == "reinforcement" and self.method.reinforcement is None:
            raise InvalidRequest(
                "Missing required parameter: 'method.reinforcement'.",
                param="method.reinforcement",
                code="missing_required_parameter",
            )
        if kind not in AVAILABLE_METHODS:
            *others, last = map(repr, AVAILABLE_METHODS)
            raise InvalidRequest(
                f"The method '{kind}' is not available yet; use {', '.join(others)} or {last}.",
                param="method.type",
                code="invalid_value",
            )
        return kind

    def merged_hyperparameters(self) -> dict[str, Any]:
        """The method's own before those at the top level, "auto" where neither says anything."""
        kind = self.method_type()
        merged = AVAILABLE_METHODS[kind]().model_dump(exclude={"luthier"})
        for given in self._given(kind).values():
            merged |= given.model_dump(exclude_unset=True, exclude={"luthier"})
        control = self.control()
        return {**merged, "luthier": control} if control else merged

    def control(self) -> dict[str, Any]:
        """What was asked for under `luthier`, knob by knob as the other hyperparameters."""
        asked: dict[str, Any] = {}
        for given in self._given(self.method_type()).values():
            asked |= given.luthier.asked() if given.luthier else {}
        return asked

    def control_param(self) -> str:
        """Where `luthier` stands, for messages."""
        given = self._given(self.method_type())
        named = [param for param, each in given.items() if each.luthier]
        return f"{named[-1] if named else 'hyperparameters'}.luthier"

    def _given(self, kind: str) -> dict[str, Hyperparameters]:
        """Those at the top level before the method's own, by where they stand."""
        block = getattr(self.method, kind, None)
        both = {
            "hyperparameters": self.hyperparameters,
            f"method.{kind}.hyperparameters": block and block.hyperparameters,
        }
        return {param: given for param, given in both.items() if given}
