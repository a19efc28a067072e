"""Jobs that are killed again and again at places that a seed draws, beside the same jobs left alone: to the last bit.

In this process: what kills is an exception that nothing catches. Places are the passes, the crash points around an update and a
checkpoint, and behind every report, where a checkpoint that nobody has heard of yet is lost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from training import checkpoint, course
from training.messages import (
    Alert,
    CheckpointSaved,
    Classification,
    Dpo,
    EarlyStopping,
    Finished,
    Full,
    Lora,
    Method,
    OutputLayers,
    Prefix,
    Report,
    Start,
    Started,
    StepMetrics,
    Supervised,
    Trainable,
    Unsupervised,
)

MAX_KILLS = 3
LORA = Lora(rank=4, alpha=32.0, target_modules=("q_proj", "down_proj"))
METHODS: dict[str, Method] = {
    "supervised": Supervised(),
    "unsupervised": Unsupervised(overlap=5),
    "classification": Classification(),
    "dpo": Dpo(),
    "simpo": Dpo(loss_type="simpo", beta=2, gamma=1),
    "orpo": Dpo(loss_type="orpo"),
}
KINDS: dict[str, Trainable] = {
    "lora": LORA,
    "prefix": Prefix(num_virtual_tokens=4),
    "output_layers": OutputLayers(num_blocks=1, train_head=True),
    "full": Full(),
}
NEVER_BETTER = EarlyStopping(metric="full_valid_loss", patience=2, min_delta=10)
CASES: dict[str, dict[str, Any]] = {
    "noise": {"dropout": 0.1, "neftune_noise_alpha": 5.0, "loraplus_ratio": 4.0},
    "stops early": {"n_epochs": 4, "batch_size": 6, "early_stopping": NEVER_BETTER},
    "texts by a prefix": {
        "method": METHODS["unsupervised"],
        "trainable": KINDS["prefix"],
        "neftune_noise_alpha": 5.0,
    },
    "labels": {"method": METHODS["classification"]},
    "head": {"method": Classification(head=True)},
    "pairs": {"method": METHODS["dpo"]},
    "pairs by a prefix": {"method": METHODS["dpo"], "trainable": KINDS["prefix"]},
    "layers": {"trainable": KINDS["output_layers"]},
    "all of it": {"trainable": KINDS["full"]},
}


class Killed(BaseException):
    """As by kill -9."""


class Killer:
    """Kills the `at`-th time that anything comes by."""

    def __init__(self) -> None:
        self.num_visits = 0
        self.at = 0

    def __call__(self, *_: object) -> None:
        self.num_visits += 1
        if self.num_visits == self.at:
            raise Killed

    def attempt(self, at: int) -> None:
        self.num_visits, self.at = 0, at


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    killer = Killer()
    for module in (checkpoint, course):
        monkeypatch.setattr(module, "crash_point", killer)
    return killer


def files_of(saved: CheckpointSaved) -> dict[str, bytes]:
    """All but when and where it was written."""
    folder = Path(saved.path)
    paths = [*(folder / "artifact").iterdir(), *(folder / "state").glob("*.safetensors")]
    return {path.name: path.read_bytes() for path in paths}


def heard(job: Start, killer: Killer) -> Iterator[Report]:
    """What is told until the job ends or is killed, which it may be behind every report before anybody hears of it."""
    for report in jobs.run(job, killer):
        killer()
        yield report


def killed_again_and_again(
    job: Start, killer: Killer, chance: random.Random, num_places: int
) -> tuple[list[Report], int]:
    """All that was heard, and how often it was killed."""
    reports: list[Report] = []
    num_kills = 0
    for attempt in range(MAX_KILLS + 1):
        killer.attempt(chance.randrange(1, num_places) if attempt < MAX_KILLS else 0)
        num_heard = len(reports)
        # Each attempt of a worker has a folder of its own, and as often a state as steps happen to be saved.
        folder = Path(job.output_dir) / str(attempt)
        folder.mkdir()
        config = job.config.model_copy(update={"checkpoint_interval_s": chance.choice([0, 60])})
        saved = checkpoints_of(reports)
        going_on = job.model_copy(
            update={
                "output_dir": str(folder),
                "config": config,
                "resume_from": saved[-1].path if saved else None,
            }
        )
        try:
            for report in heard(going_on, killer):
                reports.append(report)
            break
        except Killed:
            num_kills += 1
        finally:
            for started in reports[num_heard : num_heard + 1]:
                assert isinstance(started, Started)
                assert started.step == (saved[-1].step if saved else 0)
                assert started.exact_resume
    return reports, num_kills


def assert_as_if_left_alone(job: Start, killer: Killer, seed: int | str, folder: Path) -> None:
    (folder / "whole").mkdir(parents=True)
    killer.attempt(0)
    whole = list(heard(job.model_copy(update={"output_dir": str(folder / "whole")}), killer))
    (folder / "killed").mkdir()
    killed, num_kills = killed_again_and_again(
        job.model_copy(update={"output_dir": str(folder / "killed")}),
        killer,
        random.Random(seed),
        killer.num_visits,
    )
    assert num_kills > 0
    by_step: dict[int, StepMetrics] = {}
    for metrics in steps_of(killed):
        # What is computed once more is the same, so that an event's key is all that tells it apart.
        assert by_step.setdefault(metrics.step, metrics) == metrics
    assert [by_step[step] for step in sorted(by_step)] == steps_of(whole)
    if isinstance(job.config.method, Dpo) and job.config.method.has_reference:
        # The reference is where training began, to the last digit.
        assert by_step[1].values["train_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert alerts_of(killed) == alerts_of(whole)
    assert killed[-1] == whole[-1]
    assert isinstance(whole[-1], Finished)
    assert whole[-1].outcome == "succeeded"
    assert files_of(checkpoints_of(killed)[-1]) == files_of(checkpoints_of(whole)[-1])


def alerts_of(reports: list[Report]) -> dict[str, Alert]:
    """The first of each key, as the database keeps them."""
    found: dict[str, Alert] = {}
    for report in reports:
        if isinstance(report, Alert):
            found.setdefault(report.key, report)
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_job_is_the_same_to_the_bit_wherever_it_is_killed(
    base_path: Path, tmp_path: Path, killer: Killer, case: str
) -> None:
    job = jobs.start(base_path, tmp_path, **CASES[case])
    assert_as_if_left_alone(job, killer, seed=case, folder=tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_and_kind_is(
    base_path: Path, tmp_path: Path, killer: Killer, method: str, kind: str, seed: int
) -> None:
    job = jobs.start(base_path, tmp_path, method=METHODS[method], trainable=KINDS[kind])
    assert_as_if_left_alone(job, killer, seed, folder=tmp_path / "runs")
