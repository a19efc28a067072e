"""Jobs that train a prefix, measured against PEFT."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dataset import beginnings
from dataset.examples import Example
from dataset.tokenized import Dataset
from modeling.artifacts import prefix as files
from tests.training import jobs
from tests.training.reports import steps_of
from training.batches import ScoredRow, micro_batches
from training.losses.cross_entropy import cross_entropy
from training.messages import (
    CheckpointSaved,
    Failed,
    Finished,
    Method,
    Prefix,
    Report,
    Start,
    Supervised,
    TrainConfig,
    Unsupervised,
)
from training.primitives import Learner, load_base
from training.programs import program_of

V = 8
CHANGES: dict[str, Any] = {
    "trainable": Prefix(num_virtual_tokens=V),
    "learning_rate": 2e-2,
    "max_seq_len": 128 - V,
}
METHODS = [Supervised(), Unsupervised(overlap=10)]


def job(base_path: Path, folder: Path, **changes: Any) -> Start:
    return jobs.start(base_path, folder, **{**CHANGES, **changes})


def last_folder(reports: Sequence[Report]) -> Path:
    *_, last = (Path(r.path) for r in reports if isinstance(r, CheckpointSaved))
    return last / "artifact"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.kind)
def unbroken(
    request: pytest.FixtureRequest, base_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Start, list[Report]]:
    method: Method = request.param
    start = job(base_path, tmp_path_factory.mktemp("unbroken"), method=method)
    return start, list(jobs.run(start))


def keys_values(folder: Path, model: PreTrainedModel) -> Tensor:
    return files.keys_values(files.read(folder, model.config, base_model="tiny-random"))


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


def test_a_killed_job_without_a_checkpoint_begins_with_the_same_bits(
    base_path: Path, tmp_path: Path
) -> None:
    start = job(base_path, tmp_path)
    one, other = (list(itertools.islice(jobs.run(start), 4)) for _ in range(2))
    assert steps_of(one) == steps_of(other)


def test_losses_of_every_kind_get_smaller(unbroken: tuple[Start, list[Report]]) -> None:
    _, reports = unbroken
    assert isinstance(reports[-1], Finished)
    losses = [
        step.values["full_valid_loss"]
        for step in steps_of(reports)
        if "full_valid_loss" in step.values
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1] + 0.01


def test_peft_loads_what_was_trained_and_has_the_loss_that_was_told(
    unbroken: tuple[Start, list[Report]], base_path: Path
) -> None:
    start, reports = unbroken
    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    peer: Any = peft.PeftModel.from_pretrained(plain, last_folder(reports))
    assert start.validation_set is not None
    total, weight = 0.0, 0.0
    for example in Dataset.open(Path(start.validation_set)).examples:
        ids = torch.from_numpy(example.input_ids).long()[None]
        with torch.no_grad():
            logprobs = peer(input_ids=ids).logits[0, :-1].log_softmax(-1)
        own = logprobs.gather(1, ids[0, 1:, None])[:, 0]
        total -= float((own * torch.from_numpy(example.weights[1:])).sum())
        weight += example.weight
    told = steps_of(reports)[-1].values["full_valid_loss"]
    assert told == pytest.approx(total / weight, rel=1e-5)


def test_virtual_tokens_part_ways_and_the_first_one_stays(
    unbroken: tuple[Start, list[Report]], model: PreTrainedModel
) -> None:
    start, reports = unbroken
    trained = keys_values(last_folder(reports), model)
    learner = Learner(model, start.config)
    learner.begin(Dataset.open(Path(start.training_set)).examples)
    begun = files.keys_values(learner.artifact())
    assert torch.equal(trained[0], begun[0])
    moved = (trained - begun).flatten(2).abs().amax(2)  # (V, L)
    assert bool((moved[1:] > 1e-3).all())
    for one, other in itertools.combinations(trained - begun, 2):
        assert not torch.allclose(one, other, atol=1e-3)


def test_it_begins_as_the_commonest_beginning_would_in_context(
    model: PreTrainedModel, base_path: Path, tmp_path: Path
) -> None:
    examples = jobs.examples(base_path, tmp_path, 8)
    text = torch.tensor(beginnings.commonest(examples, V).tolist())
    learner = Learner(model, jobs.config(base_path, **CHANGES))
    learner.begin(examples)
    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    for example in examples[:3]:
        (batch,) = jobs.micro_batches([example], 1000)
        whole = torch.cat([text, torch.from_numpy(example.input_ids).long()])
        with torch.no_grad():
            logprobs = plain(whole[None]).logits[0, V:].log_softmax(-1)
        expected = logprobs[batch.positions].gather(1, batch.labels[:, None])[:, 0]
        torch.testing.assert_close(learner.logprobs(batch).logprobs, expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            alone = plain(whole[None, V:]).logits[0].log_softmax(-1)
        expected = alone[batch.positions].gather(1, batch.labels[:, None])[:, 0]
        base = learner.logprobs(batch, "base").logprobs
        torch.testing.assert_close(base, expected, rtol=1e-5, atol=1e-5)


def gradients(learner: Learner, examples: list[Example], config: TrainConfig) -> list[Tensor]:
    units = [[ScoredRow.of(example)] for example in examples]
    for batch in micro_batches(
        units, config.micro_batch_tokens, num_virtual_tokens=config.num_virtual_tokens
    ):
        learner.forward_backward(batch, cross_entropy, 1.0)
    found = []
    for parameter in learner.parameters.values():
        assert parameter.grad is not None
        found.append(parameter.grad)
        parameter.grad = None
    return found


@pytest.mark.parametrize("micro_batch_tokens", [64, 500])
def test_rows_that_share_a_beginning_learn_as_single_ones(
    model: PreTrainedModel, base_path: Path, tmp_path: Path, micro_batch_tokens: int
) -> None:
    examples = jobs.examples(base_path, tmp_path, 6)
    config = jobs.config(base_path, **CHANGES, micro_batch_tokens=micro_batch_tokens)
    learner = Learner(model, config)
    learner.begin(examples)
    packed = gradients(learner, examples, config)
    single = [gradients(learner, [example], config) for example in examples]
    for one, many in zip(packed, zip(*single, strict=True), strict=True):
        torch.testing.assert_close(one, torch.stack(many).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_one_batch_overfits(base_path: Path, tmp_path: Path, method: Method) -> None:
    start = job(
        base_path,
        tmp_path,
        method=method,
        trainable=Prefix(num_virtual_tokens=32),
        batch_size=2,
        n_epochs=60,
        learning_rate=0.1,
        warmup_steps=5,
        max_seq_len=48,
    )
    rows = Dataset.open(Path(start.training_set)).examples[:2]
    model = load_base(base_path, "fp32")
    learner = Learner(model, start.config)
    learner.begin(rows)
    program = program_of(start.config, learner)
    losses = [
        jobs.made(program.update(step, rows, 0.1, lambda: None))["loss"] for step in range(60)
    ]
    assert losses[-1] < losses[0] / 8


def test_a_job_goes_on_from_a_prefix(
    unbroken: tuple[Start, list[Report]], base_path: Path, tmp_path: Path, model: PreTrainedModel
) -> None:
    start, reports = unbroken
    tuned = last_folder(reports)
    again = start.model_copy(update={"init_artifact": str(tuned), "output_dir": str(tmp_path)})
    first = steps_of(list(itertools.islice(jobs.run(again), 2)))[0]
    assert first.values["train_loss"] < steps_of(reports)[0].values["train_loss"]

    longer = start.config.model_copy(update={"trainable": Prefix(num_virtual_tokens=V + 1)})
    (failed,) = list(jobs.run(again.model_copy(update={"config": longer})))
    assert isinstance(failed, Failed)
    assert (failed.code, failed.is_user_error) == ("invalid_model", True)
    assert "has 8 virtual tokens, not 9" in failed.message


@pytest.mark.parametrize("exponent", [-3, 5, 19.5, 36])
def test_no_rate_leaves_a_prefix_that_serving_would_refuse(
    base_path: Path, tmp_path: Path, model: PreTrainedModel, exponent: float
) -> None:
    changes = {"learning_rate": 10**exponent, "n_epochs": 1, "checkpoint_interval_s": 0}
    start = job(base_path, tmp_path, **changes).model_copy(update={"validation_set": None})
    reports = list(jobs.run(start))
    for saved in reports:
        if isinstance(saved, CheckpointSaved):
            keys_values(Path(saved.path) / "artifact", model)
    last = reports[-1]
    assert isinstance(last, Finished) or (isinstance(last, Failed) and last.code == "nan_loss")
    assert isinstance(last, Finished) == (exponent < 0)
