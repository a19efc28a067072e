"""The examples: one for each method, and one for each kind of what a job changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import measures
from .measures import Measure
from .outcome import Bound

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """What is learnt from which data, and what it is expected to come to."""

    name: str
    training: str
    """A file of this folder."""
    figure: str
    """What `measure` measures, in words."""
    measure: Measure
    bound: Bound
    validation: str | None = None
    max_rows: int | None = None
    """Of the training file, its first ones; None: all."""
    method: str = "supervised"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None
    """None: LoRA."""

    def content(self) -> bytes:
        """What is uploaded to train on."""
        lines = (FOLDER / self.training).read_bytes().splitlines(keepends=True)
        return b"".join(lines[: self.max_rows])

    @property
    def options(self) -> dict[str, Any]:
        """Of the request that creates the job. OpenAI's client sends what it does not know in `extra_body`."""
        hyperparameters = {"hyperparameters": dict(self.hyperparameters)}
        extra: dict[str, Any] = {"method": {"type": self.method, self.method: hyperparameters}}
        if self.tuning is not None:
            extra["tuning"] = dict(self.tuning)
        return {"seed": 1, "suffix": self.name.replace("_", "-"), "extra_body": extra}


MAILS: dict[str, Any] = {
    "training": "support_mails/train.jsonl",
    "validation": "support_mails/validation.jsonl",
}
LOSS: dict[str, Any] = {"figure": "loss", "measure": measures.loss}

EXAMPLES = (
    Example(
        name="supervised",
        training="support_mails/train.jsonl",
        max_rows=160,
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2},
        figure="fields right",
        measure=measures.right_fields,
        bound=Bound(at_least=0.6),
    ),
    Example(
        name="unsupervised",
        training="case_notes/train.txt",
        method="unsupervised",
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2},
        figure="bits per byte",
        measure=measures.bits_per_byte,
        bound=Bound(at_most=1.0),
    ),
    Example(
        name="classification",
        training="mail_categories/train.jsonl",
        max_rows=160,
        method="classification",
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2},
        figure="labels right",
        measure=measures.right_labels,
        bound=Bound(at_least=0.35),
    ),
    Example(
        name="moderation",
        training="moderation/train.jsonl",
        method="classification",
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2},
        figure="texts judged right",
        measure=measures.right_judgements,
        bound=Bound(at_least=0.7),
    ),
    Example(
        name="dpo",
        training="preferences/train.jsonl",
        validation="preferences/validation.jsonl",
        max_rows=64,
        method="dpo",
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2},
        figure="pairs in order",
        measure=measures.right_order,
        bound=Bound(at_least=0.8),
    ),
    Example(
        name="prefix",
        **MAILS,
        **LOSS,
        max_rows=96,
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 2},
        tuning={"type": "prefix", "length": 16},
        bound=Bound(at_most=1.5),
    ),
    Example(
        name="output_layers",
        **MAILS,
        **LOSS,
        max_rows=48,
        hyperparameters={"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 2},
        tuning={"type": "output_layers", "blocks": 2},
        bound=Bound(at_most=1.0),
    ),
    Example(
        name="full",
        **MAILS,
        **LOSS,
        max_rows=48,
        hyperparameters={"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 2},
        tuning={"type": "full"},
        bound=Bound(at_most=1.0),
    ),
)


def named(names: list[str]) -> tuple[Example, ...]:
    """Those of these names, in the catalogue's order; all if none is given.

    Raises:
        ValueError: there is no example of a name.
    """
    known = [example.name for example in EXAMPLES]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no example {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(example for example in EXAMPLES if not names or example.name in names)
