"""Preferences on the tiny base, measured against plain torch on all the logits of transformers with PEFT."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dataset.examples import Example
from dataset.tokenized import Dataset
from modeling.artifacts import lora
from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from tests.training.tuning.test_kinds import KINDS
from training.batches import MicroBatch, ScoredRow, micro_batches
from training.course import Values
from training.losses.dpo import PreferenceLoss, sums
from training.messages import (
    Alert,
    Dpo,
    Failed,
    Report,
    Start,
    Started,
    Trainable,
)
from training.primitives import Learner, load_base
from training.programs import program_of
from training.programs.dpo import DpoProgram


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


@pytest.fixture(scope="module")
def pairs(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rows = jobs.write_preferences(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", 6)
    return Dataset.open(jobs.tokenized(rows, base_path, method="dpo"))


@pytest.fixture
def learner(model: PreTrainedModel, base_path: Path) -> Iterator[Learner]:
    """With an adapter that does something: B is not zero."""
    learner = Learner(model, jobs.config(base_path, method=Dpo()))
    jobs.make_effective(learner)
    yield learner
    learner.close()


def units(examples: Sequence[Example]) -> list[list[ScoredRow]]:
    return [[ScoredRow.of(each) for each in example.sequences] for example in examples]


def prepared(learner: Learner, pairs: Dataset, base_path: Path, **changes: Any) -> DpoProgram:
    config = jobs.config(base_path, method=Dpo(), batch_size=6, **changes)
    program = program_of(config, learner)
    assert isinstance(program, DpoProgram)
    list(program.prepare(pairs, None, lambda: None))
    return program


def plain_sums(plain: Any, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Of the answers' log-probabilities one row at a time, and their numbers of tokens. Both (N, 2)."""
    found, counts = [], []
    for sequence in (s for example in examples for s in example.sequences):
        ids = torch.from_numpy(sequence.input_ids).long()
        logprobs = plain(ids[None]).logits[0, :-1].log_softmax(-1)
        is_learnt = torch.from_numpy(sequence.weights[1:] > 0)
        found.append(logprobs.gather(1, ids[1:, None])[:, 0][is_learnt].sum())
        counts.append(int(is_learnt.sum()))
    return torch.stack(found).view(-1, 2), torch.tensor(counts).view(-1, 2)


def plain_loss(policy: Tensor, reference: Tensor, counts: Tensor, method: Dpo) -> Tensor:
    """The papers' formulas, by pair."""
    gain = policy - reference
    mean = policy / counts
    if method.loss_type == "simpo":
        loss = -torch.sigmoid(method.beta * (mean[:, 0] - mean[:, 1]) - method.gamma).log()
    elif method.loss_type == "orpo":
        p = mean.exp()
        odds = p / (1 - p)
        loss = -mean[:, 0] - method.beta * torch.sigmoid((odds[:, 0] / odds[:, 1]).log()).log()
    elif method.loss_type == "ipo":
        difference = gain[:, 0] / counts[:, 0] - gain[:, 1] / counts[:, 1]
        loss = (difference - 1 / (2 * method.beta)) ** 2
    else:
        p = torch.sigmoid(method.beta * (gain[:, 0] - gain[:, 1]))
        loss = -(1 - method.label_smoothing) * p.log() - method.label_smoothing * (1 - p).log()
    return loss - method.sft_weight * policy[:, 0] / counts[:, 0]


@pytest.mark.parametrize(
    "method",
    [
        Dpo(),
        Dpo(beta=0.7, label_smoothing=0.2, sft_weight=0.3),
        Dpo(loss_type="ipo"),
        Dpo(loss_type="simpo", beta=2, gamma=1, sft_weight=0.3),
        Dpo(loss_type="orpo", beta=0.5),
    ],
    ids=["dpo", "smoothed", "ipo", "simpo", "orpo"],
)
def test_loss_and_gradients_equal_plain_torch(
    learner: Learner, pairs: Dataset, base_path: Path, tmp_path: Path, method: Dpo
) -> None:
    examples = list(pairs.examples)
    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    with torch.no_grad():
        reference, counts = plain_sums(plain, examples)
    lora.write(tmp_path / "adapter", learner.artifact())
    peer: Any = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter", is_trainable=True)
    policy, _ = plain_sums(peer, examples)
    expected = plain_loss(policy, reference, counts, method).mean()
    expected.backward()  # type: ignore[no-untyped-call]
    expected_grads = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): parameter.grad
        for name, parameter in peer.named_parameters()
        if parameter.requires_grad
    }

    loss = 0.0
    packed = micro_batches(units(examples), 250)
    assert len(packed) > 1
    for batch in packed:
        before = sums(learner.logprobs(batch, "base").logprobs, batch)
        torch.testing.assert_close(before, reference[list(batch.units)], rtol=1e-5, atol=1e-4)
        of_batch = PreferenceLoss(method, before if method.has_reference else None)
        loss += learner.forward_backward(batch, of_batch, len(examples))[0].item() / len(examples)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    for name, parameter in learner.parameters.items():
        torch.testing.assert_close(
            parameter.grad, expected_grads[name], rtol=1e-3, atol=2e-6, msg=name
        )


def assert_at_the_start(values: Values) -> None:
    assert values["loss"] == pytest.approx(math.log(2), rel=1e-7)
    assert values["accuracy"] == values["rewards/accuracies"] == 0.5
    for name in ("chosen", "rejected", "margins"):
        assert values[f"rewards/{name}"] == 0
    assert values["logps/rejected"] < values["logps/chosen"] < 0


def test_the_first_step_begins_exactly_at_the_reference(
    learner: Learner, pairs: Dataset, base_path: Path
) -> None:
    """Also of a job that goes on from a tuned model, whose start is not the base: this learner's is none."""
    program = prepared(learner, pairs, base_path)
    examples = [pairs.examples[i] for i in (3, 1, 5, 0, 2, 4)]
    first = jobs.made(program.update(1, examples, 1e-3, lambda: None))
    # In another order the sums may differ in their last bits.
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert abs(first["rewards/margins"]) < 1e-4
    second = jobs.made(program.update(2, examples, 1e-3, lambda: None))
    assert second["loss"] < first["loss"]
    assert second["rewards/margins"] == pytest.approx(
        second["rewards/chosen"] - second["rewards/rejected"], abs=1e-6
    )
    (batch,) = micro_batches(units(examples), 10_000)
    with pytest.raises(ValueError, match="are gone"):
        learner.logprobs(batch, "start")


def swapped(example: Example) -> Example:
    better, worse = example.sequences
    found = Example.of_sequences([worse, better])
    return Example(found.input_ids, found.weights, found.lengths, example.index)


def test_a_swapped_pair_negates_its_margin(
    learner: Learner, pairs: Dataset, base_path: Path
) -> None:
    program = prepared(learner, pairs, base_path)
    examples = list(pairs.examples)
    jobs.made(program.update(1, examples, 1e-2, lambda: None))
    reference = program.state()["reference.training"]
    program.load_state(
        {**program.state(), "reference.validation": reference, "sha256.validation": torch.ones(())}
    )
    found = program.evaluate(1, examples, lambda: None)
    program.load_state({**program.state(), "reference.validation": reference.flip(1)})
    other = program.evaluate(1, [swapped(each) for each in examples], lambda: None)
    assert found["rewards/margins"] > 0.01
    assert other["rewards/margins"] == pytest.approx(-found["rewards/margins"], rel=1e-4)
    assert other["rewards/chosen"] == pytest.approx(found["rewards/rejected"], rel=1e-4)
    assert other["accuracy"] == 1 - found["accuracy"]
    assert other["loss"] > math.log(2) > found["loss"]


def weights_of(reports: Sequence[Report]) -> bytes:
    folder = Path(checkpoints_of(reports)[-1].path)
    return (folder / "artifact" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def job(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("job")
    return jobs.start(base_path, folder, method=Dpo(), batch_size=5)


def into(job: Start, folder: Path, **changes: Any) -> Start:
    folder.mkdir(exist_ok=True)
    config = job.config.model_copy(update=changes)
    return job.model_copy(update={"output_dir": str(folder), "config": config})


@pytest.fixture(scope="module")
def unbroken(job: Start, tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    return list(jobs.run(into(job, tmp_path_factory.mktemp("unbroken"))))


def test_a_job_learns_its_preferences(unbroken: list[Report]) -> None:
    started, *_ = unbroken
    assert isinstance(started, Started)
    first, *_, last = [step.values for step in steps_of(unbroken)]
    assert_at_the_start({name.removeprefix("train_"): value for name, value in first.items()})
    assert last["train_loss"] < 0.1
    assert last["train_accuracy"] == 1
    assert last["rewards/margins"] > 2
    # Of the start too, of which a validation file's pairs know nothing in training.
    assert 0 < last["full_valid_loss"] < math.log(2)
    assert last["full_valid_accuracy"] > 0.9
    assert last["full_valid_rewards/margins"] > 0
    names = {name.removeprefix("full_valid_") for name in last if name.startswith("full_valid_")}
    assert names == {"loss", "accuracy"} | {
        name for name in last if name.startswith(("rewards/", "logps/"))
    }


@pytest.mark.parametrize("kill_behind", [2, 11])
def test_a_killed_job_resumes_bit_for_bit(
    job: Start,
    unbroken: list[Report],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_behind: int,
) -> None:
    """Behind the n-th checkpoint: 4 pieces of the reference, one of the validation file's, and 8 steps."""
    often = into(job, tmp_path / "before", checkpoint_interval_s=0)
    before: list[Report] = []
    for report in jobs.run(often):  # abandoned in the middle, as by kill -9
        before.append(report)
        if len(checkpoints_of(before)) == kill_behind:
            break
    newest = checkpoints_of(before)[-1]
    assert newest.step == max(kill_behind - 5, 0)
    assert len({saved.path for saved in checkpoints_of(before)}) == kill_behind
    computed: list[MicroBatch] = []
    logprobs = Learner.logprobs

    def counted(self: Learner, batch: MicroBatch, who: Any = "policy") -> Any:
        if who == "start":
            computed.append(batch)
        return logprobs(self, batch, who)

    monkeypatch.setattr(Learner, "logprobs", counted)
    resumed = into(job, tmp_path / "after").model_copy(update={"resume_from": newest.path})
    after = list(jobs.run(resumed))
    assert isinstance(after[0], Started)
    assert (after[0].step, after[0].exact_resume) == (newest.step, True)
    assert steps_of(before) + steps_of(after) == steps_of(unbroken)
    assert weights_of(after) == weights_of(unbroken)
    assert after[-1] == unbroken[-1]
    # Only what was missing is computed, and nothing twice.
    num_pairs = sum(len(batch.units) for batch in computed)
    assert num_pairs == {2: 18 - 10 + 6, 4: 6}.get(kill_behind, 0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_whatever_a_job_changes_its_reference_is_where_it_began(
    job: Start, tmp_path: Path, kind: Trainable
) -> None:
    changes = {"trainable": kind, "n_epochs": 1, "checkpoint_interval_s": 0}
    reports = list(jobs.run(into(job, tmp_path / "a", **changes)))
    assert steps_of(reports)[0].values["train_loss"] == pytest.approx(math.log(2), rel=1e-7)
    assert steps_of(reports)[-1].values["rewards/margins"] > 0
    ahead, *_ = checkpoints_of(reports)
    resumed = into(job, tmp_path / "b", **changes).model_copy(update={"resume_from": ahead.path})
    after = list(jobs.run(resumed))
    assert steps_of(after) == steps_of(reports)
    assert artifact_of(after) == artifact_of(reports)


def artifact_of(reports: Sequence[Report]) -> dict[str, bytes]:
    folder = Path(checkpoints_of(reports)[-1].path) / "artifact"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("loss_type", ["simpo", "orpo"])
def test_a_job_without_a_reference_begins_at_once_and_resumes_bit_for_bit(
    job: Start, tmp_path: Path, loss_type: Any
) -> None:
    method = Dpo(loss_type=loss_type, beta=2)
    changes = {"method": method, "n_epochs": 1, "checkpoint_interval_s": 0}
    reports = list(jobs.run(into(job, tmp_path / "a", **changes)))
    first, *_, last = steps_of(reports)
    first_saved, *_ = checkpoints_of(reports)
    assert first_saved.step == 1
    assert last.values["train_loss"] < first.values["train_loss"]
    assert last.values["rewards/margins"] > first.values["rewards/margins"]
    assert last.values["full_valid_rewards/margins"] > 0
    resumed = into(job, tmp_path / "b", **changes)
    resumed = resumed.model_copy(update={"resume_from": first_saved.path})
    after = list(jobs.run(resumed))
    assert steps_of(after) == steps_of(reports)[1:]
    assert weights_of(after) == weights_of(reports)


def test_a_stop_in_the_middle_of_the_reference_keeps_what_there_is(
    job: Start, unbroken: list[Report], tmp_path: Path
) -> None:
    calls = iter(range(100))
    stopping = into(job, tmp_path / "a")
    reports = list(jobs.run(stopping, lambda: "checkpoint" if next(calls) >= 7 else None))
    (saved,) = checkpoints_of(reports)
    assert (saved.step, saved.metrics, saved.end_of_epoch, saved.is_last) == (0, None, False, False)
    assert not steps_of(reports)
    resumed = into(job, tmp_path / "b").model_copy(update={"resume_from": saved.path})
    assert weights_of(list(jobs.run(resumed))) == weights_of(unbroken)


def test_a_reference_of_another_file_is_refused(
    job: Start, unbroken: list[Report], base_path: Path, tmp_path: Path
) -> None:
    other = jobs.write_preferences(tmp_path / "other.jsonl", first=1)
    changed = into(job, tmp_path).model_copy(
        update={
            "resume_from": checkpoints_of(unbroken)[0].path,
            "training_set": str(jobs.tokenized(other, base_path, method="dpo")),
        }
    )
    failed = list(jobs.run(changed))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_checkpoint"
    assert "its reference is of another training file" in failed.message


def test_what_goes_wrong_slowly_is_told_once(
    job: Start, unbroken: list[Report], base_path: Path, tmp_path: Path
) -> None:
    # A random base at a high rate: the preferred answers fall with the others.
    (fall,) = [report for report in unbroken if isinstance(report, Alert)]
    assert (fall.key, fall.step > 1) == ("fall", True)
    assert "log-probability has fallen by 2" in fall.text
    assert "an sft_weight of 0.1" in fall.text

    longer = jobs.write_preferences(tmp_path / "longer.jsonl", better_is_longer=True)
    changes = {"training_set": str(jobs.tokenized(longer, base_path, method="dpo"))}
    careful = into(job, tmp_path / "out", learning_rate=1e-5).model_copy(update=changes)
    alerts = [report for report in jobs.run(careful) if isinstance(report, Alert)]
    assert [(alert.key, alert.step) for alert in alerts] == [("length", 1)]
    assert "2.5 times as long as the others" in alerts[0].text
