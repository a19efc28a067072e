from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig

from modeling.artifacts import lora
from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from training.logprobs import Scores
from training.messages import (
    CheckpointSaved,
    Failed,
    Finished,
    Report,
    Start,
    Started,
    StepMetrics,
    StopReason,
)
from training.process import JobRunner

# 18 examples in batches of 4, two epochs.
STEPS = 10
PINNED_LOSSES = [
    5.61685,
    5.78834,
    5.31831,
    4.56904,
    4.20672,
    4.06438,
    4.14062,
    3.82082,
    3.87547,
    3.81929,
]


class Switch:
    """What a supervisor turns while the job runs."""

    reason: StopReason | None = None

    def __call__(self) -> StopReason | None:
        return self.reason


def after_calls(number: int, reason: StopReason) -> Callable[[], StopReason | None]:
    calls = iter(range(10**9))
    return lambda: reason if next(calls) >= number else None


@pytest.fixture(scope="module")
def unbroken(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    return list(jobs.run(jobs.start(base_path, tmp_path_factory.mktemp("unbroken"))))


def test_job_reports_its_course(unbroken: list[Report]) -> None:
    started, *_, finished = unbroken
    assert isinstance(started, Started)
    assert (started.step, started.total_steps, started.num_examples) == (0, STEPS, 18)
    assert started.precision == "fp32"
    assert started.exact_resume
    assert started.warnings == []
    metrics = steps_of(unbroken)
    assert [m.step for m in metrics] == list(range(1, STEPS + 1))
    assert [m.epoch for m in metrics] == [1] * 5 + [2] * 5
    assert metrics[-1].num_tokens == 2 * started.num_tokens
    assert metrics[-1].values["train_loss"] < metrics[0].values["train_loss"]
    saved = checkpoints_of(unbroken)
    assert [(c.step, c.epoch, c.end_of_epoch, c.is_last) for c in saved] == [
        (5, 1, True, False),
        (10, 2, True, True),
    ]
    assert saved[0].metrics is not None
    assert saved[0].metrics.model_copy(update={"step_time_s": 0}) == metrics[4]
    assert finished == Finished(
        job_id="ftjob-1", outcome="succeeded", step=STEPS, trained_tokens=2 * started.num_tokens
    )


def test_validation_runs_when_it_is_due(unbroken: list[Report]) -> None:
    metrics = steps_of(unbroken)
    assert [m.step for m in metrics if "valid_loss" in m.values] == [3, 6, 9]
    assert [m.step for m in metrics if "full_valid_loss" in m.values] == [5, 10]
    last = metrics[-1].values
    assert 0 < last["full_valid_loss"] < 6
    assert 0 <= last["full_valid_mean_token_accuracy"] <= 1


def test_losses_of_a_known_job_are_those_pinned(unbroken: list[Report]) -> None:
    losses = [m.values["train_loss"] for m in steps_of(unbroken)]
    assert losses == pytest.approx(PINNED_LOSSES, rel=1e-4)


def test_resume_in_another_environment_is_told(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path)
    first = checkpoints_of(list(jobs.run(job)))[0]
    chats = jobs.write_chats(tmp_path / "other.jsonl", first=1)
    other = str(jobs.tokenized(chats, base_path))
    job = job.model_copy(update={"resume_from": first.path, "training_set": other})
    resumed = next(iter(jobs.run(job)))
    assert isinstance(resumed, Started)
    assert not resumed.exact_resume
    assert "training_file was" in resumed.warnings[0]


def test_cancelled_job_stops_before_the_next_step(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path, checkpoint_interval_s=0)
    switch, reports = Switch(), list[Report]()
    for report in jobs.run(job, switch):
        reports.append(report)
        if isinstance(report, CheckpointSaved):
            switch.reason = "cancel"
    assert [type(report) for report in reports] == [Started, StepMetrics, CheckpointSaved, Finished]
    (done,) = steps_of(reports)
    assert reports[-1] == Finished(
        job_id="ftjob-1", outcome="stopped", step=1, trained_tokens=done.num_tokens
    )


def test_stop_for_a_checkpoint_writes_the_last_finished_step(
    unbroken: list[Report], base_path: Path, tmp_path: Path
) -> None:
    job = jobs.start(base_path, tmp_path)
    switch, reports = Switch(), list[Report]()
    for report in jobs.run(job, switch):
        reports.append(report)
        if isinstance(report, StepMetrics) and report.step == 3:
            switch.reason = "checkpoint"
    *_, saved, finished = reports
    assert isinstance(saved, CheckpointSaved)
    assert (saved.step, saved.end_of_epoch, saved.is_last) == (3, False, False)
    assert isinstance(finished, Finished)
    assert finished.outcome == "stopped"
    after = list(jobs.run(job.model_copy(update={"resume_from": saved.path})))
    assert steps_of(reports) + steps_of(after) == steps_of(unbroken)


def test_job_stopped_before_its_first_step_writes_nothing(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path)
    _, *reports = jobs.run(job, after_calls(0, "checkpoint"))
    assert reports == [Finished(job_id="ftjob-1", outcome="stopped", step=0, trained_tokens=0)]
    assert not list(tmp_path.glob("step-*"))


def test_cancel_reaches_into_validation(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path, eval_interval_steps=1, micro_batch_tokens=10)
    micro_batches_of_step_1 = 4
    reports = list(jobs.run(job, after_calls(micro_batches_of_step_1 + 1, "cancel")))
    assert [type(report) for report in reports] == [Started, Finished]


def test_one_batch_overfits(base_path: Path, tmp_path: Path) -> None:
    job = Start(
        job_id="ftjob-1",
        config=jobs.config(
            base_path, n_epochs=40, batch_size=3, learning_rate=1e-2, warmup_steps=5, rank=16
        ),
        training_set=str(jobs.tokenized(jobs.write_chats(tmp_path / "chats.jsonl", 3), base_path)),
        output_dir=str(tmp_path / "out"),
    )
    (tmp_path / "out").mkdir()
    last = steps_of(list(jobs.run(job)))[-1]
    # The random base's frozen output layer cannot be surer than this.
    assert last.values["train_loss"] < 0.2
    assert last.values["train_mean_token_accuracy"] == 1


def test_job_continues_from_a_tuned_model(
    unbroken: list[Report], base_path: Path, tmp_path: Path
) -> None:
    tuned = Path(checkpoints_of(unbroken)[-1].path) / "artifact"
    job = jobs.start(base_path, tmp_path).model_copy(update={"init_artifact": str(tuned)})
    first = steps_of(list(jobs.run(job)))[0]
    assert first.values["train_loss"] < 0.8 * steps_of(unbroken)[0].values["train_loss"]


def test_diverging_job_fails_with_advice(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path, learning_rate=1e30, learning_rate_multiplier=1e33)
    failed = list(jobs.run(job))[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.is_user_error) == ("nan_loss", True)
    assert "Lower learning_rate_multiplier (it was 1e+33)" in failed.message


@settings(max_examples=12, deadline=None)
@given(exponent=st.floats(-3, 36))
@example(exponent=3)
@example(exponent=19.5)
def test_no_rate_leaves_an_adapter_that_serving_would_refuse(
    base_path: Path, exponent: float
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        changes = {"learning_rate": 10**exponent, "n_epochs": 1, "checkpoint_interval_s": 0}
        job = jobs.start(base_path, Path(directory), **changes)
        job = job.model_copy(update={"validation_set": None})
        reports = list(jobs.run(job))
        base_config = AutoConfig.from_pretrained(base_path)
        for saved in checkpoints_of(reports):
            lora.load(Path(saved.path) / "artifact", base_config)
    last = reports[-1]
    if exponent < -1:
        assert isinstance(last, Finished)
    if exponent > 5:
        assert isinstance(last, Failed)
        assert (last.code, last.is_user_error) == ("nan_loss", True)
        assert re.search(r" at step \d+\. Lower learning_rate_multiplier", last.message)


def test_validation_loss_that_is_not_finite_fails_the_job(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Scores(torch.tensor(math.nan), torch.tensor([False]))
    monkeypatch.setattr("training.primitives.Learner.logprobs", lambda *_: nothing)
    failed = list(jobs.run(jobs.start(base_path, tmp_path)))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "nan_loss"
    assert failed.message.startswith(
        "The validation loss became infinite or not a number at step 3. Lower"
    )


@pytest.mark.parametrize(
    ("change", "code", "param", "is_user_error"),
    [
        ({"resume_from": "bad"}, "invalid_checkpoint", None, False),
        ({"init_artifact": "bad"}, "invalid_model", "model", True),
        ({"training_set": "gone"}, "server_error", None, False),
    ],
)
def test_bad_input_fails_with_its_code(
    base_path: Path,
    tmp_path: Path,
    change: dict[str, str],
    code: str,
    param: str | None,
    is_user_error: bool,
) -> None:
    (tmp_path / "bad").write_text("nonsense\n")
    paths: dict[str, Any] = {name: str(tmp_path / value) for name, value in change.items()}
    job = jobs.start(base_path, tmp_path).model_copy(update=paths)
    (failed,) = jobs.run(job)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.param, failed.is_user_error) == (code, param, is_user_error)


def test_job_out_of_memory_fails_with_its_code(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The allocator itself refuses: no machine has so much.
    monkeypatch.setattr("training.primitives.Learner.optim_step", lambda *_: torch.empty(2**60))
    failed = list(jobs.run(jobs.start(base_path, tmp_path)))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "out_of_memory"


def test_trainer_is_whole_after_a_failed_job(
    unbroken: list[Report], base_path: Path, tmp_path: Path
) -> None:
    runner = JobRunner()
    bad = jobs.start(base_path, tmp_path, learning_rate=1e30)
    assert isinstance(list(runner.reports(bad, lambda: None))[-1], Failed)
    good = jobs.start(base_path, tmp_path)
    assert steps_of(list(runner.reports(good, lambda: None))) == steps_of(unbroken)


def test_truncated_and_empty_examples_are_told(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path, max_seq_len=70)
    started = next(iter(jobs.run(job)))
    assert isinstance(started, Started)
    assert any("longer than 70 tokens and were truncated" in w for w in started.warnings)


def test_final_adapter_is_fp32_and_complete(unbroken: list[Report]) -> None:
    path = Path(checkpoints_of(unbroken)[-1].path)
    tensors = load_file(path / "artifact" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * len(jobs.ALL_LINEAR)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
