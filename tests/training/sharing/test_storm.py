"""Small jobs that share passes while others beside them are cancelled, paused, break down, or lose the trainer under them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from tests.training.sharing.test_jobs import (
    _bytes_are_tokens,  # noqa: F401 - a fixture
    assert_close,
    has_shared,
    starts,
    weights_of,
)
from training.messages import (
    Alert,
    Classification,
    Dpo,
    Failed,
    Finished,
    Full,
    Lora,
    Prefix,
    Report,
    Start,
    StopReason,
    Unsupervised,
)
from training.process import JobRunner
from training.sharing import fused
from training.sharing.turns import Turns

STORM: dict[str, dict[str, Any]] = {
    "chat": {"rank": 4},
    "texts": {"rank": 8, "method": Unsupervised(), "seed": 8},
    "labels": {
        "method": Classification(),
        "trainable": Lora(rank=2, alpha=8.0, target_modules=("q_proj", "down_proj")),
    },
    "pairs": {"rank": 3, "method": Dpo(), "micro_batch_tokens": 512},
    "simpo": {
        "rank": 3,
        "method": Dpo(loss_type="simpo", beta=2, gamma=1),
        "micro_batch_tokens": 512,
    },
    "never": {"rank": 4, "shared": "never"},
    "head": {"method": Classification(head=True)},
    "prefix": {"trainable": Prefix(num_virtual_tokens=4)},
    "full": {"trainable": Full()},
    "broken": {"learning_rate": 1e30},
    "cancelled": {"rank": 2},
}
EXACT = ("never", "head", "prefix", "full")


class Storm:
    """One trainer after another; whoever stops without having been cancelled is begun anew from its newest state."""

    def __init__(self, wanted: Sequence[Start], seed: int) -> None:
        self._chance = random.Random(seed)
        self._wanted = {start.job_id: start for start in wanted}
        self._stops: dict[str, StopReason] = {}
        self.told: dict[str, list[Report]] = {name: [] for name in self._wanted}
        self.ends: dict[str, Report] = {}
        self.num_pauses = self.num_deaths = 0

    def run(self) -> None:
        while left := [name for name in self._wanted if name not in self.ends]:
            self._live(left)

    def _live(self, names: Sequence[str]) -> None:
        """A trainer, until it dies or all have ended."""
        self._runner, self._turns = JobRunner(), Turns(together=fused.make_together)
        self._stops.clear()
        for name in names:
            self._begin(name)
        while not self._turns.is_empty:
            report = self._turns.next_report()
            if name := getattr(report, "job_id", ""):
                self._hear(name, report)
            lot = self._chance.random()
            if lot < 0.01 and self.num_deaths < 3:
                self.num_deaths += 1
                return
            if lot < 0.06:
                self._stops.setdefault(self._chance.choice(names), "checkpoint")
            if "cancelled" not in self.ends and len(steps_of(self.told["cancelled"])) > 3:
                self._stops["cancelled"] = "cancel"

    def _begin(self, name: str) -> None:
        start = self._wanted[name]
        if saved := checkpoints_of(self.told[name]):
            start = start.model_copy(update={"resume_from": saved[-1].path})
        share = str(len(name) % 2)
        self._turns.add(share, self._runner.turns(start, partial(self._stops.get, name)))

    def _hear(self, name: str, report: Report) -> None:
        self.told[name].append(report)
        is_paused = isinstance(report, Finished) and report.outcome == "stopped"
        if is_paused and self._stops.pop(name, None) == "checkpoint":
            self.num_pauses += 1
            self._begin(name)
        elif isinstance(report, Finished | Failed):
            self.ends[name] = report


def once(reports: Sequence[Report]) -> list[Report]:
    """Of steps that were made anew the last ones."""
    steps = {metrics.step: metrics for metrics in steps_of(reports)}
    others = [r for r in reports if isinstance(r, Alert)] + checkpoints_of(reports)
    return [*(steps[step] for step in sorted(steps)), *others]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_becomes_of_others_a_job_learns_what_it_learns_alone(
    base_path: Path, tmp_path: Path, seed: int
) -> None:
    changes = {
        name: {"n_epochs": 1, "batch_size": 3, "checkpoint_interval_s": 0, **change}
        for name, change in STORM.items()
    }
    storm = Storm(starts(base_path, tmp_path / "storm", changes), seed)
    storm.run()
    assert storm.num_pauses > 0
    assert sum(map(has_shared, storm.told.values())) >= fused.FEWEST_JOBS
    broken, cancelled = storm.ends.pop("broken"), storm.ends.pop("cancelled")
    assert isinstance(broken, Failed)
    assert broken.code == "nan_loss"
    assert isinstance(cancelled, Finished)
    assert cancelled.outcome == "stopped"
    for start in starts(base_path, tmp_path / "alone", changes):
        name = start.job_id
        if name not in storm.ends:
            continue
        end, reports = storm.ends[name], storm.told[name]
        assert isinstance(end, Finished), (name, end)
        assert end.outcome == "succeeded", name
        alone = list(jobs.run(start))
        assert len(steps_of(once(reports))) == len(steps_of(alone)) == steps_of(alone)[-1].step
        if name in EXACT:
            assert not has_shared(reports)
            assert steps_of(once(reports)) == steps_of(alone)
            found = weights_of(reports)
            assert all(tensor.equal(found[key]) for key, tensor in weights_of(alone).items())
        else:
            assert_close(once(reports), alone)
