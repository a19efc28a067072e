"""Classification by label tokens on the tiny base, measured against transformers with each label behind its prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from dataset.examples import Example
from dataset.labels import Labels
from dataset.tokenized import Dataset
from tests.training import jobs
from tests.training.reports import checkpoints_of
from training.messages import (
    Classification,
    Label,
    Lora,
    Report,
    Start,
    StepMetrics,
)
from training.primitives import Learner, load_base
from training.programs import program_of
from training.programs.classification import ClassificationProgram


@pytest.fixture(scope="module")
def job(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("classification")
    # Longer than a micro-batch, so that prompts and labels have to be divided.
    return jobs.start(base_path, folder, method=Classification(), micro_batch_tokens=32)


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


@pytest.fixture
def learner(model: PreTrainedModel, job: Start) -> Iterator[Learner]:
    learner = Learner(model, job.config)
    with torch.no_grad():
        for number, parameter in enumerate(learner.parameters.values()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    yield learner
    learner.close()


@pytest.fixture(scope="module")
def plain(base_path: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    return loaded


def labels_of(job: Start) -> tuple[Label, ...]:
    assert isinstance(job.config.method, Classification)
    return job.config.method.labels


def of_labels(plain: PreTrainedModel, example: Example, labels: tuple[Label, ...]) -> torch.Tensor:
    """transformers' own Σ log p of each label's tokens behind the example's prompt, each alone, and how many are the likeliest."""
    prompt = example.input_ids[example.weights == 0].tolist()
    rows = []
    for label in labels:
        with torch.inference_mode():
            logits = plain(torch.tensor([[*prompt, *label.token_ids]])).logits[0].double()
        places = slice(len(prompt) - 1, -1)
        targets = torch.tensor(label.token_ids)
        found = logits[places].log_softmax(-1).gather(1, targets[:, None]).sum()
        rows.append(torch.stack([found, (logits[places].argmax(-1) == targets).sum()]))
    return torch.stack(rows)


def program(job: Start, learner: Learner, **changes: Any) -> ClassificationProgram:
    method = job.config.method.model_copy(update=changes)
    found = program_of(job.config.model_copy(update={"method": method}), learner)
    assert isinstance(found, ClassificationProgram)
    return found


def test_labels_are_the_words_with_their_end_and_alone_are_learnt(job: Start) -> None:
    labels = labels_of(job)
    assert [label.text for label in labels] == ["bad", "good", "so-so"]
    for label in labels:
        assert bytes(label.token_ids[:-1]).decode() == label.text
    first = Dataset.open(Path(job.training_set)).examples[0]
    assert tuple(first.input_ids[first.weights != 0].tolist()) == labels[1].token_ids


def test_what_is_judged_is_what_transformers_makes_of_each_label_alone(
    job: Start, learner: Learner, plain: PreTrainedModel
) -> None:
    assert job.validation_set is not None
    examples = list(Dataset.open(Path(job.validation_set)).examples)
    labels = labels_of(job)
    # As the base.
    with torch.no_grad():
        for parameter in learner.parameters.values():
            parameter.zero_()
    alone = torch.stack([of_labels(plain, example, labels) for example in examples])
    truths = [[label.token_ids for label in labels].index(_learnt(e)) for e in examples]
    values = program(job, learner).evaluate(1, examples, lambda: None)
    num_tokens = sum(example.num_supervised_tokens for example in examples)
    of_truth = alone[torch.arange(len(examples)), truths]
    assert values["loss"] == pytest.approx(-of_truth[:, 0].sum().item() / num_tokens, rel=1e-5)
    assert values["mean_token_accuracy"] == of_truth[:, 1].sum().item() / num_tokens
    guesses = alone[..., 0].argmax(dim=1).tolist()
    right = [guess == truth for guess, truth in zip(guesses, truths, strict=True)]
    assert values["accuracy"] == pytest.approx(sum(right) / len(right))
    confusion = values["confusion"]
    assert isinstance(confusion, dict)
    for guess, truth in zip(guesses, truths, strict=True):
        assert confusion[labels[truth].text][labels[guess].text] >= 1
    assert sum(n for row in confusion.values() for n in row.values()) == len(examples)


def test_a_step_goes_down_the_weighted_cross_entropy_of_the_labels(
    job: Start, learner: Learner
) -> None:
    """The gradient is that of supervised fine-tuning on rows that count by their label."""
    examples = list(Dataset.open(Path(job.training_set)).examples[:6])
    weights = {"bad": 3.0, "good": 0.5, "so-so": 1.0}
    labels = tuple(
        label.model_copy(update={"weight": weights[label.text]}) for label in labels_of(job)
    )
    by_ids = {label.token_ids: weights[label.text] for label in labels}
    expected_loss = expected_weight = 0.0
    for example in examples:
        (batch,) = jobs.micro_batches([example], 10_000)
        weight = by_ids[_learnt(example)]
        expected_loss += weight * -learner.logprobs(batch).logprobs.double().sum().item()
        expected_weight += weight * example.num_supervised_tokens
    values = jobs.made(program(job, learner, labels=labels).update(1, examples, 1e-3, lambda: None))
    assert values["loss"] == pytest.approx(expected_loss / expected_weight, rel=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_labels_are_learnt_by_heart(base_path: Path, tmp_path: Path, head: bool) -> None:
    job = jobs.start(
        base_path,
        tmp_path / "all",
        method=Classification(head=head),
        n_epochs=30,
        batch_size=6,
        learning_rate=1e-2,
        warmup_steps=5,
        trainable=Lora(rank=16, alpha=32.0, target_modules=jobs.ALL_LINEAR),
        eval_interval_steps=100,
    )
    rows = jobs.write_labelled(tmp_path / "few.jsonl", 6)
    few = str(
        jobs.tokenized(rows, base_path, method="classification", labels=Labels(are_rows=head))
    )
    job = job.model_copy(update={"training_set": few, "validation_set": few})
    reports: list[Report] = list(jobs.run(job))
    steps = [report for report in reports if isinstance(report, StepMetrics)]
    assert steps[-1].values["train_loss"] < 0.2 < steps[0].values["train_loss"]
    assert steps[-1].values["full_valid_accuracy"] == 1
    assert steps[-1].values["full_valid_weighted_f1"] == 1
    confusion = steps[-1].tables["full_valid_confusion"]
    assert {truth: set(row) for truth, row in confusion.items()} == {t: {t} for t in jobs.MOODS}
    assert steps[-1].tables["full_valid_classes"]["bad"]["f1"] == 1


def test_of_two_classes_the_search_for_one_is_measured(
    base_path: Path, tmp_path: Path, learner: Learner
) -> None:
    job = jobs.start(base_path, tmp_path, method=Classification())
    two = [label for label in labels_of(job) if label.text != "so-so"]
    examples = [
        example
        for example in Dataset.open(Path(job.training_set)).examples
        if _learnt(example) in {label.token_ids for label in two}
    ]
    changes = {"labels": tuple(two), "positive_class": "good", "betas": (0.5, 1.0)}
    values = program(job, learner, **changes).evaluate(1, examples, lambda: None)
    assert {"precision", "recall", "f0.5", "f1", "auroc", "auprc"} <= values.keys()
    # All of one class: there is nothing to tell it from.
    of_one = [example for example in examples if _learnt(example) == two[1].token_ids]
    values = program(job, learner, **changes).evaluate(1, of_one, lambda: None)
    assert values["auroc"] != values["auroc"]
    step = StepMetrics(
        job_id="ftjob-1",
        step=1,
        total_steps=1,
        epoch=1,
        learning_rate=0,
        num_tokens=1,
        step_time_s=0,
        values={"valid_auroc": float("nan")},
        tables={},
    )
    assert math.isnan(json.loads(step.model_dump_json())["values"]["valid_auroc"])


def _learnt(example: Example) -> tuple[int, ...]:
    return tuple(example.input_ids[example.weights != 0].tolist())


def test_a_head_says_what_a_classifier_of_transformers_says(
    base_path: Path, tmp_path: Path
) -> None:
    job = jobs.start(base_path, tmp_path, method=Classification(head=True), learning_rate=2e-2)
    reports: list[Report] = list(jobs.run(job))
    steps = [report for report in reports if isinstance(report, StepMetrics)]
    saved = checkpoints_of(reports)[-1]
    labels = labels_of(job)
    named = json.loads((Path(saved.path) / "artifact" / "classifier.json").read_text())
    assert list(named["id2label"].values()) == [label.text for label in labels]

    assert job.validation_set is not None
    examples = list(Dataset.open(Path(job.validation_set)).examples)
    base = AutoModelForSequenceClassification.from_pretrained(
        base_path, num_labels=len(labels), dtype=torch.float32
    )
    # transformers reads the last token that is not this one.
    base.config.pad_token_id = 0
    oracle = PeftModel.from_pretrained(base, str(Path(saved.path) / "artifact")).eval()
    loss, guesses = 0.0, []
    for example in examples:
        *prompt, row = example.input_ids.tolist()
        assert labels[row].token_ids == (row,)
        with torch.inference_mode():
            logits = oracle(torch.tensor([prompt])).logits[0].double()
        loss -= logits.log_softmax(-1)[row].item() / len(examples)
        guesses.append(int(logits.argmax()) == row)
    values = steps[-1].values
    assert values["full_valid_loss"] == pytest.approx(loss, rel=1e-5)
    assert values["full_valid_accuracy"] == pytest.approx(sum(guesses) / len(guesses))
