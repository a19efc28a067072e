"""Small jobs on one base that stand at their passes at the same time, beside the same jobs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from training.messages import (
    Alert,
    Classification,
    Dpo,
    Failed,
    Finished,
    Lora,
    Report,
    Start,
    StopReason,
    Unsupervised,
)
from training.process import JobRunner
from training.sharing import fused
from training.sharing.turns import Turns

ALL: dict[str, dict[str, Any]] = {
    "chat": {"rank": 4},
    "texts": {"rank": 8, "method": Unsupervised(), "seed": 8},
    "labels": {
        "method": Classification(),
        "trainable": Lora(rank=2, alpha=8.0, target_modules=("q_proj", "down_proj")),
    },
    "pairs": {"rank": 3, "method": Dpo(), "micro_batch_tokens": 512},
}
"""Methods, ranks and layers of several kinds."""
CHATS: dict[str, dict[str, Any]] = {
    name: {"rank": 4, "seed": n, "n_epochs": 1} for n, name in enumerate("abcd")
}
TOLERANCE = 1e-4
"""Of a parameter after training, relative to the largest one of its tensor; docs/methods.md promises it."""


@pytest.fixture(autouse=True)
def _bytes_are_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SMALL_PASS_TOKENS", 1000)
    monkeypatch.setattr(fused, "MAX_FUSED_TOKENS", 8000)


def starts(base_path: Path, folder: Path, changes: dict[str, dict[str, Any]]) -> list[Start]:
    return [
        jobs.start(base_path, folder / name, **{"shared": "auto", **change}).model_copy(
            update={"job_id": name}
        )
        for name, change in changes.items()
    ]


def told(
    wanted: Sequence[Start], stop_reason: Callable[[str], StopReason | None] = lambda _: None
) -> dict[str, list[Report]]:
    """What one trainer says of each of the jobs, which came at the same time."""
    runner, turns = JobRunner(), Turns(together=fused.make_together)
    reports: dict[str, list[Report]] = {start.job_id: [] for start in wanted}
    for start in wanted:
        turns.add("a", runner.turns(start, lambda name=start.job_id: stop_reason(name)))  # type: ignore[misc]
    while not turns.is_empty:
        report = turns.next_report()
        if job_id := getattr(report, "job_id", ""):
            reports[job_id].append(report)
    return reports


def has_shared(reports: Sequence[Report]) -> bool:
    return any(isinstance(r, Alert) and r.key == "shared" for r in reports)


def weights_of(reports: Sequence[Report]) -> dict[str, Tensor]:
    return load_file(
        next((Path(checkpoints_of(reports)[-1].path) / "artifact").glob("*.safetensors"))
    )


def assert_close(found: Sequence[Report], alone: Sequence[Report]) -> None:
    """The weights, and the metrics of every step that both have."""
    expected = weights_of(alone)
    for name, tensor in weights_of(found).items():
        within = TOLERANCE * expected[name].abs().max().item()
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=within)
    for mine, theirs in zip(steps_of(found), steps_of(alone)[-len(steps_of(found)) :], strict=True):
        assert mine.values == pytest.approx(theirs.values, rel=1e-3, abs=1e-4)


def test_jobs_of_all_methods_that_share_learn_what_each_learns_alone(
    base_path: Path, tmp_path: Path
) -> None:
    once = {name: {**change, "n_epochs": 1} for name, change in ALL.items()}
    together = told(starts(base_path, tmp_path / "together", once))
    for start in starts(base_path, tmp_path / "alone", once):
        alone = list(jobs.run(start))
        assert has_shared(together[start.job_id])
        assert not has_shared(alone)
        assert_close(together[start.job_id], alone)


def test_a_job_that_never_shares_is_the_same_to_the_bit(base_path: Path, tmp_path: Path) -> None:
    """Killed at any step besides, while the others share."""
    never = {"shared": "never", "checkpoint_interval_s": 0, "n_epochs": 1}
    changes = {**CHATS, "never": {"rank": 4, **never}}
    together = told(starts(base_path, tmp_path / "together", changes))
    unbroken = list(jobs.run(starts(base_path, tmp_path / "alone", changes)[-1]))
    assert [has_shared(reports) for reports in together.values()] == [True] * 4 + [False]
    of_never = together["never"]
    for name, tensor in weights_of(unbroken).items():
        assert tensor.equal(weights_of(of_never)[name])
    assert steps_of(of_never) == steps_of(unbroken)
    again = starts(base_path, tmp_path / "again", changes)
    again[-1] = again[-1].model_copy(update={"resume_from": checkpoints_of(of_never)[2].path})
    resumed = told(again)["never"]
    for name, tensor in weights_of(unbroken).items():
        assert tensor.equal(weights_of(resumed)[name])
    assert steps_of(resumed) == steps_of(unbroken)[3:]


def test_two_jobs_take_turns_and_stay_exact(base_path: Path, tmp_path: Path) -> None:
    two = {name: CHATS[name] for name in "ab"}
    together = told(starts(base_path, tmp_path / "together", two))
    for start in starts(base_path, tmp_path / "alone", two):
        alone = list(jobs.run(start))
        assert not has_shared(together[start.job_id])
        assert steps_of(together[start.job_id]) == steps_of(alone)


def test_a_job_that_shared_and_was_killed_goes_on_alone(base_path: Path, tmp_path: Path) -> None:
    changes = {name: {**change, "checkpoint_interval_s": 0} for name, change in CHATS.items()}
    together = told(starts(base_path, tmp_path / "together", changes))
    first = starts(base_path, tmp_path / "resumed", changes)[0]
    state = checkpoints_of(together["a"])[1].path
    resumed = list(jobs.run(first.model_copy(update={"resume_from": state})))
    assert len(steps_of(resumed)) == len(steps_of(together["a"])) - 2
    assert_close(resumed, list(jobs.run(starts(base_path, tmp_path / "alone", changes)[0])))


def test_a_job_ends_alone_whatever_ends_it(base_path: Path, tmp_path: Path) -> None:
    """One breaks down, one is cancelled; the others neither end nor learn anything of it."""
    changes = {**CHATS, "broken": {"learning_rate": 1e30}, "cancelled": {}}
    asked: list[str] = []

    def stop_reason(name: str) -> StopReason | None:
        asked.append(name)
        return "cancel" if name == "cancelled" and asked.count(name) > 3 else None

    together = told(starts(base_path, tmp_path / "together", changes), stop_reason)
    last = {name: reports[-1] for name, reports in together.items()}
    broken, cancelled = last.pop("broken"), last.pop("cancelled")
    assert isinstance(broken, Failed)
    assert broken.code == "nan_loss"
    assert isinstance(cancelled, Finished)
    assert cancelled.outcome == "stopped"
    assert all(isinstance(r, Finished) and r.outcome == "succeeded" for r in last.values())
    alone = list(jobs.run(starts(base_path, tmp_path / "alone", changes)[0]))
    assert_close(together["a"], alone)


def test_where_memory_runs_out_each_goes_on_alone(
    base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same bytes as ever."""

    def run_out(passes: Sequence[fused.Pass]) -> None:
        tried.append(len(passes))
        raise torch.OutOfMemoryError

    tried: list[int] = []
    monkeypatch.setattr(fused, "_make", run_out)
    together = told(starts(base_path, tmp_path / "together", CHATS))
    assert len(tried) == 1
    for start in starts(base_path, tmp_path / "alone", CHATS):
        assert steps_of(together[start.job_id]) == steps_of(list(jobs.run(start)))
