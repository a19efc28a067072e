"""The body of create-job: what may be asked for, and in which bounds. Unknown fields are tolerated."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from storage.errors import InvalidRequest

MAX_SEED = 2**31 - 1
AVAILABLE_METHODS = ("supervised",)

_SUFFIX = re.compile(r"[A-Za-z0-9._-]+")


def _refuse_nul(value: object) -> object:
    # PostgreSQL stores every character but this one.
    if isinstance(value, str) and "\0" in value:
        raise PydanticCustomError("nul", "the character NUL is not allowed.")
    return value


def _check_suffix(value: object) -> object:
    # It becomes a part of the model's name, and ":" separates those.
    if isinstance(value, str) and value and not _SUFFIX.fullmatch(value):
        raise PydanticCustomError(
            "suffix",
            "only letters, digits, '.', '_' and '-' are allowed, but got {got} instead.",
            {"got": repr(value[:70])},
        )
    return value


def _auto_or_whole(maximum: int) -> BeforeValidator:
    """ "auto" or 1 to `maximum`. Null means "auto": old clients send it."""

    def check(value: Any) -> object:
        if value is None or value == "auto":
            return "auto"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and 1 <= value <= maximum and value == int(value):
            return int(value)
        raise _not_auto(value, f"an integer between 1 and {maximum}")

    return BeforeValidator(check)


def _auto_or_positive(value: Any) -> object:
    if value is None or value == "auto":
        return "auto"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and value > 0 and math.isfinite(value):
        return value
    raise _not_auto(value, "a number above 0")


def _not_auto(value: object, expected: str) -> PydanticCustomError:
    return PydanticCustomError(
        "hyperparameter",
        "expected 'auto' or {expected}, but got {got} instead.",
        {"expected": expected, "got": repr(value)[:50]},
    )


NoNul = BeforeValidator(_refuse_nul)
Name = Annotated[str, StringConstraints(min_length=1, max_length=256), NoNul]
Tag = Annotated[str, StringConstraints(max_length=64), NoNul]
Suffix = Annotated[
    str, StringConstraints(min_length=1, max_length=64), BeforeValidator(_check_suffix)
]
MetadataKey = Annotated[str, StringConstraints(max_length=64), NoNul]
MetadataValue = Annotated[str, StringConstraints(max_length=512), NoNul]


class Hyperparameters(BaseModel):
    n_epochs: Annotated[Literal["auto"] | int, _auto_or_whole(50)] = "auto"
    batch_size: Annotated[Literal["auto"] | int, _auto_or_whole(256)] = "auto"
    learning_rate_multiplier: Annotated[
        Literal["auto"] | float, BeforeValidator(_auto_or_positive)
    ] = "auto"


class SupervisedMethod(BaseModel):
    hyperparameters: Hyperparameters | None = None


class Method(BaseModel):
    """Blocks of the other methods may stand beside `supervised`; they mean nothing."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None


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
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None

    def method_type(self) -> str:
        """Raises InvalidRequest for a method that cannot be trained."""
        kind = self.method.type if self.method else "supervised"
        if kind not in AVAILABLE_METHODS:
            raise InvalidRequest(
                f"The method '{kind}' is not available yet; use 'supervised'.",
                param="method.type",
                code="invalid_value",
            )
        return kind

    def merged_hyperparameters(self) -> dict[str, Any]:
        """The method's own before those at the top level, "auto" where neither says anything."""
        merged = Hyperparameters().model_dump()
        supervised = self.method.supervised if self.method else None
        for given in (self.hyperparameters, supervised and supervised.hyperparameters):
            if given:
                merged |= given.model_dump(exclude_unset=True)
        return merged
