"""The body of the old API's create: its fields, its defaults, and what of it is not done here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from api.fine_tuning.classes import MAX_BETA, MAX_BETAS
from api.fine_tuning.request import (
    AVAILABLE_METHODS,
    MAX_LEARNING_RATE_MULTIPLIER,
    Suffix,
)
from api.requests.fields import Name
from dataset.labels import MAX_LABELS
from foundation.errors import InvalidRequest

DEFAULT_MODEL = "curie"
DEFAULT_EPOCHS = 4
LOW_MULTIPLIER = 0.3

_OF_CLASSIFICATION = (
    "classification_n_classes",
    "classification_positive_class",
    "classification_betas",
)


class CreateFineTune(BaseModel):
    """`batch_size` and `learning_rate_multiplier` are chosen by the server where they are left out."""

    training_file: Name
    validation_file: Name | None = None
    model: Name | None = None
    n_epochs: Annotated[int, Field(ge=1, le=50)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=256)] | None = None
    learning_rate_multiplier: (
        Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE_MULTIPLIER, allow_inf_nan=False)] | None
    ) = None
    prompt_loss_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    compute_classification_metrics: bool | None = None
    classification_n_classes: Annotated[int, Field(ge=2, le=MAX_LABELS)] | None = None
    classification_positive_class: Name | None = None
    classification_betas: (
        Annotated[
            list[Annotated[float, Field(gt=0, le=MAX_BETA, allow_inf_nan=False)]],
            Field(min_length=1, max_length=MAX_BETAS),
        ]
        | None
    ) = None
    suffix: Annotated[Suffix, StringConstraints(max_length=40)] | None = None

    @property
    def method(self) -> str:
        return "classification" if self.compute_classification_metrics else "supervised"

    def check(self) -> None:
        """Raises InvalidRequest for metrics without what they are measured on, or of."""
        if not self.compute_classification_metrics:
            return
        if self.validation_file is None:
            raise InvalidRequest(
                "'compute_classification_metrics' needs a 'validation_file': that is what they are measured on.",
                param="validation_file",
                code="missing_required_parameter",
            )
        if self.classification_n_classes is None and self.classification_positive_class is None:
            raise InvalidRequest(
                "'compute_classification_metrics' needs 'classification_n_classes', or for two classes "
                "'classification_positive_class'.",
                param="classification_n_classes",
                code="missing_required_parameter",
            )

    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters as a job has them, whose n_epochs is a number from the beginning."""
        given: dict[str, Any] = {
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }
        kind = AVAILABLE_METHODS[self.method]
        if self.compute_classification_metrics:
            given |= {
                "n_classes": self.classification_n_classes,
                "positive_class": self.classification_positive_class,
                "betas": self.classification_betas,
            }
        asked = {name: value for name, value in given.items() if value is not None}
        return kind.model_validate(
            {"n_epochs": self.n_epochs or DEFAULT_EPOCHS, **asked}
        ).model_dump()

    def warnings(self) -> list[str]:
        """What was asked for and is done otherwise; told as events of the job."""
        texts = []
        if self.prompt_loss_weight:
            texts.append(
                f"prompt_loss_weight={self.prompt_loss_weight:g} is not applied: this server learns "
                "from the completions alone, as with 0"
            )
        multiplier = self.learning_rate_multiplier
        if multiplier is not None and multiplier < LOW_MULTIPLIER:
            texts.append(
                f"learning_rate_multiplier={multiplier:g} is low: this server multiplies the rate "
                "that it finds right for the model, so 1 is the default here, not 0.05 to 0.2"
            )
        without_effect = [name for name in _OF_CLASSIFICATION if getattr(self, name) is not None]
        if without_effect and not self.compute_classification_metrics:
            texts.append(
                "Without effect, for compute_classification_metrics is not set: "
                f"{', '.join(without_effect)}"
            )
        return texts
