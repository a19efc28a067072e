"""How a job learns: its method with every "auto" resolved. Part of `messages`, from where it is imported."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """Immutable; what is not known is refused, and a loss may be infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Supervised(Message):
    """Learn to write what the examples hold: each token has a weight of its own."""

    kind: Literal["supervised"] = "supervised"


class Unsupervised(Message):
    """Learn to go on writing like the texts: each token from those before it in the same text."""

    kind: Literal["unsupervised"] = "unsupervised"
    overlap: int = 0
    """Tokens that a long text's next window reads again, as context."""


class Dpo(Message):
    """Learn which of two answers is the better one, mostly beside the model that training began with."""

    kind: Literal["dpo"] = "dpo"
    beta: float = 0.1
    """How dearly it pays to go away from that model. Of simpo, how much likelihood counts; of orpo, the preference."""
    loss_type: Literal["dpo", "ipo", "simpo", "orpo"] = "dpo"
    label_smoothing: float = 0.0
    """The share of pairs that are taken to be the wrong way round; of the loss dpo."""
    gamma: float = 0.0
    """By how much the better answer's reward shall lead; of the loss simpo."""
    sft_weight: float = 0.0
    """How much writing the better answer counts besides, by its mean loss a token."""

    @property
    def has_reference(self) -> bool:
        return self.loss_type in ("dpo", "ipo")


class Label(Message):
    """A class of examples, as what is to be written for it."""

    text: str
    token_ids: tuple[int, ...]
    """All that is scored of it: the text's tokens and the end behind them, or with a head its row in that."""
    weight: float = 1.0
    """How much its examples count in training."""


class Classification(Message):
    """Learn which of a few labels is the answer. The labels are found in the training file."""

    kind: Literal["classification"] = "classification"
    form: Literal["chat", "completion", "text"] = "chat"
    """Of the rows: what a label is asked for with."""
    head: bool = False
    """Labels are no words, but rows of an output layer of their own."""
    labels: tuple[Label, ...] = ()
    """In the order of their texts, or of their rows."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """As asked for; the labels have what became of it."""
    n_classes: int | None = None
    """So many labels there must be."""
    positive_class: str | None = None
    """Of two labels the one that is to be found; what is measured of a search is measured of it."""
    betas: tuple[float, ...] = (1.0,)
    """Of the F-scores of such a search."""


Method = Annotated[Supervised | Unsupervised | Dpo | Classification, Field(discriminator="kind")]
"""How a job learns."""
