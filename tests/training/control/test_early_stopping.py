"""A job that ends when its validation does not get better, and at the same step if it was killed before."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dataset.metrics import EPOCH_METRICS
from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from training.messages import (
    CheckpointSaved,
    Classification,
    Dpo,
    EarlyStopping,
    Finished,
    Method,
    Report,
    Supervised,
    Unsupervised,
)
from training.standing import Standing, after

# Nothing falls by ten nats: each epoch but the first is without a gain.
NO_GAIN = EarlyStopping(metric="full_valid_loss", patience=2, min_delta=10)


def test_the_counter_is_that_of_transformers_callback() -> None:
    stopping = EarlyStopping(metric="full_valid_loss", patience=2, min_delta=0.1)
    values = [3.0, 2.0, 1.95, math.nan, 1.7, 1.65, 1.64, 1.0]
    standing, seen = None, []
    for value in values:
        standing = after(standing, stopping, value)
        seen.append((standing.best, standing.epochs_without_gain, standing.must_stop(stopping)))
    assert seen == [
        (3.0, 0, False),
        (2.0, 0, False),
        (1.95, 1, False),
        (1.95, 2, True),
        (1.7, 0, False),
        (1.65, 1, False),
        (1.64, 2, True),
        (1.0, 0, False),
    ]


def test_more_is_better_where_it_is() -> None:
    stopping = EarlyStopping(metric="full_valid_mean_token_accuracy", patience=1)
    assert after(Standing(0.5), stopping, 0.6) == Standing(0.6)
    assert after(Standing(0.5), stopping, 0.5) == Standing(0.5, 1)


@pytest.mark.parametrize("killed_at", [None, 13])
def test_a_killed_job_stops_at_the_same_step(
    base_path: Path, tmp_path: Path, killed_at: int | None
) -> None:
    job = jobs.start(
        base_path, tmp_path, n_epochs=5, early_stopping=NO_GAIN, checkpoint_interval_s=0
    )
    reports: list[Report] = []
    for report in jobs.run(job):
        reports.append(report)
        if isinstance(report, CheckpointSaved) and report.step == killed_at:
            resumed = job.model_copy(update={"resume_from": report.path})
            reports += jobs.run(resumed)
            break
    assert [m.step for m in steps_of(reports)] == list(range(1, 16))
    *_, saved, finished = reports
    assert isinstance(saved, CheckpointSaved)
    assert (saved.step, saved.is_last, saved.stopped_early) == (15, True, True)
    assert isinstance(finished, Finished)
    assert (finished.outcome, finished.step) == ("succeeded", 15)


def test_a_job_that_gets_better_goes_to_its_end(base_path: Path, tmp_path: Path) -> None:
    stopping = EarlyStopping(metric="full_valid_loss", patience=1)
    reports = list(jobs.run(jobs.start(base_path, tmp_path, early_stopping=stopping)))
    saved = checkpoints_of(reports)
    assert [(s.step, s.is_last, s.stopped_early) for s in saved] == [
        (5, False, False),
        (10, True, False),
    ]


def test_an_exploding_loss_ends_the_job(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.programs.supervised._MAX_LOSS", 5.0)
    failed = list(jobs.run(jobs.start(base_path, tmp_path)))[-1]
    assert failed.kind == "failed"
    assert failed.code == "nan_loss"
    assert "The training loss exploded to 6 at step 1. Lower learning_rate_multi" in failed.message


METHODS: list[Method] = [Supervised(), Unsupervised(), Classification(), Dpo()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_what_a_job_may_be_stopped_by_is_measured(
    base_path: Path, tmp_path: Path, method: Method
) -> None:
    job = jobs.start(base_path, tmp_path, method=method, n_epochs=1, batch_size=9)
    last = steps_of(list(jobs.run(job)))[-1]
    assert set(EPOCH_METRICS[method.kind]) <= last.values.keys()
    assert {type(method).model_fields["kind"].default for method in METHODS} == set(EPOCH_METRICS)
