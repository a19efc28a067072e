"""One figure before training and after it, each by what any user of the API can see."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob

from . import evaluate, tickets
from .case_notes import rule as case_notes
from .job import Metrics
from .mail_categories import rule as mail_categories
from .moderation import judging


@dataclass(frozen=True)
class Trained:
    """A job that has succeeded, and the data of its steps' events."""

    client: openai.OpenAI
    base: str
    job: FineTuningJob
    steps: list[Metrics]

    @property
    def model(self) -> str:
        assert self.job.fine_tuned_model is not None
        return self.job.fine_tuned_model


Measure = Callable[[Trained], tuple[float, float]]
"""The figure before and after."""


def right_fields(trained: Trained) -> tuple[float, float]:
    """The share of tickets' fields that the base and the tuned model get right, of validation mails."""
    mails = tickets.load("validation")

    def asked(model: str) -> float:
        replies = evaluate.ask(trained.client, model, evaluate.TUNED, mails)
        return fmean(evaluate.score(mails, replies).fields.values())

    return asked(trained.base), asked(trained.model)


def bits_per_byte(trained: Trained) -> tuple[float, float]:
    """What the validation notes cost the base and the tuned model, read token by token."""
    notes = case_notes.notes("validation")
    return _cost(trained.client, trained.base, notes), _cost(trained.client, trained.model, notes)


def _cost(client: openai.OpenAI, model: str, texts: list[str]) -> float:
    echoed = client.completions.create(
        model=model, prompt=texts, echo=True, max_tokens=0, logprobs=0, temperature=0
    )
    logprobs = [choice.logprobs.token_logprobs for choice in echoed.choices if choice.logprobs]
    nats = -sum(value for each in logprobs for value in each or [] if value is not None)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def right_labels(trained: Trained) -> tuple[float, float]:
    """The share of validation mails whose label is found; before: by naming the commonest for all."""
    rows = [json.loads(line) for line in mail_categories.text("validation").splitlines()]
    labels = [row["label"] for row in rows]
    reply: Any = trained.client.post(
        "/luthier/classifications",
        body={"model": trained.model, "input": [row["text"] for row in rows]},
        cast_to=object,
    )
    found = [each["label"] for each in reply["data"]]
    commonest = Counter(labels).most_common(1)[0][1] / len(labels)
    return commonest, fmean(a == b for a, b in zip(found, labels, strict=True))


def right_judgements(trained: Trained) -> tuple[float, float]:
    """The share of validation texts that are flagged rightly, or rightly not; before: by flagging all."""
    rows = judging.rows()
    judging.bind(trained.client, trained.model)
    unsafe = fmean(row["label"] != judging.SAFE for row in rows)
    return unsafe, fmean(judging.right(trained.client, rows))


def right_order(trained: Trained) -> tuple[float, float]:
    """The share of pairs whose better answer has gained more: in the first step, in which all are
    ties, and of the validation pairs after the last one."""
    return trained.steps[0]["train_accuracy"], trained.steps[-1]["full_valid_accuracy"]


def loss(trained: Trained) -> tuple[float, float]:
    """Nats a token of the tickets: in the first step's mails, which the model has not learnt yet when
    they are measured, and of the validation mails after the last one."""
    return trained.steps[0]["train_loss"], trained.steps[-1]["full_valid_loss"]
