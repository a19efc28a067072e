"""The body of the old API's create: its fields, its defaults, and what of it is not done here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from api.fine_tuning.request import MAX_LEARNING_RATE_MULTIPLIER, Hyperparameters, Suffix
from api.requests.fields import Name
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
    classification_n_classes: Annotated[int, Field(ge=2)] | None = None
    classification_positive_class: Name | None = None
    classification_betas: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    suffix: Annotated[Suffix, StringConstraints(max_length=40)] | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what this server does not do, and nothing else would do instead."""
        if self.compute_classification_metrics:
            raise InvalidRequest(
                "This server computes no classification metrics. Leave out "
                "'compute_classification_metrics', and compare the model's completions of a held-out "
                "file with what they should be.",
                param="compute_classification_metrics",
                code="unsupported_parameter",
            )

    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters as a job has them, whose n_epochs is a number from the beginning."""
        given = {
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }
        asked = {name: value for name, value in given.items() if value is not None}
        return Hyperparameters(n_epochs=self.n_epochs or DEFAULT_EPOCHS, **asked).model_dump()

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
        if without_effect:
            texts.append(
                f"Without effect, for no such metrics are computed: {', '.join(without_effect)}"
            )
        return texts
