from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training import jobs
from training.messages import (
    CheckpointSaved,
    Dpo,
    Finished,
    Full,
    Heartbeat,
    OutputLayers,
    Prefix,
    Report,
    Start,
)
from training.process import JobRunner
from training.sharing.turns import Turns


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def job(
    clock: Clock, name: str, step_s: float, num_steps: int, told: list[str]
) -> Generator[Report]:
    """Its last step is a report of its end. What comes before the first one is a turn of its own."""
    yield Heartbeat()
    for step in range(1, num_steps + 1):
        clock.now_s += step_s
        told.append(name)
        if step == num_steps:
            yield Finished(job_id=name, outcome="succeeded", step=step, trained_tokens=0)
        else:
            yield Heartbeat()


def test_a_short_job_waits_for_a_step_of_a_long_one_not_for_its_end() -> None:
    clock, told = Clock(), list[str]()
    turns = Turns(clock)
    turns.add("a", job(clock, "long", 2.0, 1000, told))
    for _ in range(100):
        turns.next_report()
    turns.add("b", job(clock, "short", 1.0, 6, told))
    began_s = clock.now_s
    while "short" not in told[-1:] or told.count("short") < 6:
        turns.next_report()
    assert clock.now_s - began_s <= 6 * 1.0 + 3 * 2.0 + 2.0


def test_a_share_of_many_jobs_has_the_time_of_a_share_of_one() -> None:
    clock, told = Clock(), list[str]()
    turns = Turns(clock)
    for name in ("a1", "a2", "a3"):
        turns.add("a", job(clock, name, 1.0, 1000, told))
    turns.add("b", job(clock, "b1", 1.0, 1000, told))
    for _ in range(4 + 60):
        turns.next_report()
    assert Counter(told) == {"a1": 10, "a2": 10, "a3": 10, "b1": 30}


def test_who_comes_later_has_no_time_to_make_up_for() -> None:
    clock, told = Clock(), list[str]()
    turns = Turns(clock)
    turns.add("a", job(clock, "early", 1.0, 1000, told))
    for _ in range(50):
        turns.next_report()
    turns.add("a", job(clock, "late", 1.0, 1000, told))
    turns.add("b", job(clock, "other", 1.0, 1000, told))
    del told[:]
    for _ in range(2 + 40):
        turns.next_report()
    assert Counter(told) == {"early": 10, "late": 10, "other": 20}


def test_a_job_that_is_over_is_closed_and_gone() -> None:
    clock, told = Clock(), list[str]()
    turns = Turns(clock)
    reports = job(clock, "only", 1.0, 2, told)
    turns.add("a", reports)
    for _ in range(2):
        turns.next_report()
    assert not turns.is_empty
    assert isinstance(turns.next_report(), Finished)
    assert turns.is_empty
    assert reports.gi_frame is None


def _artifact(reports: list[Report]) -> bytes:
    (last,) = [r for r in reports if isinstance(r, CheckpointSaved) and r.is_last]
    (weights,) = (Path(last.path) / "artifact").glob("*.safetensors")
    return weights.read_bytes()


def _run(starts: list[Start]) -> dict[str, list[Report]]:
    runner, turns = JobRunner(), Turns()
    for start in starts:
        turns.add(start.share, runner.reports(start, lambda: None))
    told: dict[str, list[Report]] = {start.job_id: [] for start in starts}
    order = []
    while not turns.is_empty:
        report = turns.next_report()
        order.append(report.job_id)  # type: ignore[union-attr]
        told[report.job_id].append(report)  # type: ignore[union-attr]
    if len(starts) > 1:
        assert sum(a != b for a, b in itertools.pairwise(order)) >= 10
    return told


def test_what_comes_before_the_first_step_leaves_turns_to_others(
    base_path: Path, tmp_path: Path
) -> None:
    """Of preferences each piece of the reference is a turn."""
    starts = [
        jobs.start(base_path, tmp_path / "pairs", method=Dpo(), batch_size=2, n_epochs=1),
        jobs.start(base_path, tmp_path / "chats", n_epochs=1),
    ]
    alone = [list(jobs.run(start)) for start in starts]
    told: list[list[Report]] = [[], []]
    order: list[int] = []

    def listened(number: int) -> Generator[Report]:
        for report in runner.reports(starts[number], lambda: None):
            if told[number]:
                order.append(number)
            told[number].append(report)
            yield report

    runner, turns = JobRunner(), Turns(itertools.count().__next__)
    for number in range(2):
        turns.add(f"share {number}", listened(number))
    while not turns.is_empty:
        turns.next_report()
    # All reports of the chats' job behind its first, and one of preferences before each.
    num_turns = len(told[1]) - 1
    assert order[: 2 * num_turns] == [0, 1] * num_turns
    assert sum(isinstance(report, Heartbeat) for report in told[0]) == 9 + 1
    for before, together in zip(alone, told, strict=True):
        assert len(before) == len(together)
        assert _artifact(before) == _artifact(together)


def test_jobs_that_take_turns_make_what_each_makes_alone(base_path: Path, tmp_path: Path) -> None:
    """On one base in memory, whatever they change of it; the base stays as it is."""
    changes: dict[str, dict[str, Any]] = {
        "ftjob-1": {"rank": 4, "seed": 7},
        "ftjob-2": {"rank": 8, "seed": 8},
        "ftjob-3": {"trainable": Prefix(num_virtual_tokens=4)},
        "ftjob-4": {"trainable": Full()},
        "ftjob-5": {"trainable": OutputLayers(num_blocks=1, train_head=True)},
    }

    def starts(folder: Path) -> list[Start]:
        return [
            jobs.start(base_path, folder / name, n_epochs=1, **change).model_copy(
                update={"job_id": name}
            )
            for name, change in changes.items()
        ]

    alone: dict[str, list[Report]] = {}
    for start in starts(tmp_path / "alone"):
        alone |= _run([start])
    together = _run(starts(tmp_path / "together"))
    for name in changes:
        assert _artifact(together[name]) == _artifact(alone[name])
        assert len(together[name]) == len(alone[name])
    assert _artifact(alone["ftjob-1"]) != _artifact(alone["ftjob-2"])


PASS_S = 1.0


class Planned:
    is_made = False


def sharing(clock: Clock, name: str, told: list[str]) -> Generator[Any]:
    """One pass a step, which takes PASS_S alone, and hardly anything to plan."""
    while True:
        clock.now_s += PASS_S / 1000
        planned = Planned()
        yield planned
        if not planned.is_made:
            clock.now_s += PASS_S
        told.append(name)
        yield Heartbeat()


def turns_together(clock: Clock, sizes: list[int], *, cost_of_more_s: float) -> Turns:
    """Passes that are made together from two on."""

    def together(passes: Sequence[Any]) -> list[Any]:
        sizes.append(len(passes))
        if len(passes) == 1:
            return []
        clock.now_s += PASS_S + cost_of_more_s * (len(passes) - 1)
        for planned in passes:
            planned.is_made = True
        return [(planned, 1 / len(passes)) for planned in passes]

    return Turns(clock, together=together)


def test_jobs_of_all_shares_stand_together() -> None:
    clock, told, sizes = Clock(), list[str](), list[int]()
    turns = turns_together(clock, sizes, cost_of_more_s=0.1)
    for number in range(8):
        turns.add(str(number % 4), sharing(clock, str(number), told))
    for _ in range(8 * 20):
        turns.next_report()
    assert set(sizes[20:]) == {8}
    assert set(Counter(told).values()) <= {17, 18, 19, 20, 21, 22, 23}


@pytest.mark.parametrize("num_shares", [1, 8])
def test_jobs_whose_starts_take_long_stand_together_from_the_first_pass_on(num_shares: int) -> None:
    """The first one loads the base, and the others are slow to begin, each in its own way: nobody catches up alone."""
    clock, told, sizes = Clock(), list[str](), list[int]()
    turns = turns_together(clock, sizes, cost_of_more_s=0.1)

    def beginning(name: str, took_s: float) -> Generator[Any]:
        clock.now_s += took_s
        yield Heartbeat()
        yield from sharing(clock, name, told)

    for number in range(8):
        took_s = 20.0 if number == 0 else 1 / number
        turns.add(str(number % num_shares), beginning(str(number), took_s))
    for _ in range(8 + 8 * 5):
        turns.next_report()
    assert sizes == [8] * 5
    assert set(Counter(told).values()) == {5}


def test_a_share_of_one_job_is_not_held_up_by_one_of_many() -> None:
    """It would be, were it in each pass with all of them and in no other."""
    clock, told, sizes = Clock(), list[str](), list[int]()
    turns = turns_together(clock, sizes, cost_of_more_s=0.5)
    turns.add("a", sharing(clock, "one", told))
    for number in range(7):
        turns.add("b", sharing(clock, f"many{number}", told))
    while clock.now_s < 400:
        turns.next_report()
    counts = Counter(told)
    # As many steps as in half of the time alone, at least.
    assert counts["one"] >= 400 / 2 / PASS_S
    assert min(counts[f"many{number}"] for number in range(7)) > 400 / 14 / PASS_S
    assert 8 in sizes


def test_who_stands_does_not_wait_for_a_job_that_takes_long() -> None:
    clock, told, sizes = Clock(), list[str](), list[int]()
    turns = turns_together(clock, sizes, cost_of_more_s=0.0)
    for name in ("1", "2"):
        turns.add("a", sharing(clock, name, told))
    turns.add("b", job(clock, "long", 50.0, 1000, told))
    for _ in range(400):
        turns.next_report()
    counts = Counter(told)
    assert 2 in sizes
    served_s = 50.0 * counts["long"]
    assert abs(clock.now_s - 2 * served_s) <= 50.0
