from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset.formats.row_format import problem_of
from storage.files import files
from storage.jobs import jobs, pauses
from storage.leases import LostLease
from storage.models.base_models import BaseModel, Catalogue
from tests.factories import Json, colour_rows, jsonl
from tests.worker.scene import Scene, wait_for
from worker.bases import Bases
from worker.endings import Paused
from worker.job import prepare
from worker.job.run import run
from worker.lease import Lease
from worker.worker import Worker


class BrokenBases(Bases):
    """The files lie in a folder of their own, and are not whole."""

    def __init__(self, bases: Bases, broken: Path) -> None:
        super().__init__(bases.folder, broken.parent)
        self._broken = broken

    def path(self, base: BaseModel, check_stopping: Callable[[], None]) -> Path:  # noqa: ARG002
        return self._broken


def tiny_random() -> BaseModel:
    base = Catalogue.load(None, {}).get("tiny-random")
    assert base is not None
    return base


def test_rows_that_the_base_cannot_show_are_told_one_by_one(scene: Scene) -> None:
    rows = colour_rows(12)
    for row in (rows[1], rows[4]):
        row["messages"][-1]["reasoning_content"] = "Hm."
    job_id = scene.job(rows)
    run(scene.worker())
    job = scene.row(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["param"]) == ("invalid_file_format", "training_file")
    assert job.error["message"].startswith(
        "The job failed due to a file format error in the training file. Invalid file format. "
        "Example 2: messages[1].reasoning_content: the chat template of this base does not show it here"
    )
    assert job.error["message"].endswith(" (1 more problem)")
    problems, _ = scene.events(job_id)[-2:]
    assert problems.data is not None
    assert [text[:30] for text in problems.data["problems"]] == [
        "Invalid file format. Example 2",
        "Invalid file format. Example 5",
    ]
    assert "Files validated, moving job to queued state" not in scene.messages(job_id)
    with scene.sessions() as session:
        file = files.get(session, scene.project_id, job.training_file)
    assert file.status == "processed"  # another base may show them


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_base_that_cannot_be_read_is_told_without_this_machine_s_paths(
    scene: Scene, tmp_path: Path, file: str
) -> None:
    worker = scene.worker()
    whole = scene.bases.path(tiny_random(), lambda: None)
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    (broken / file).write_text("{")
    worker.bases = BrokenBases(scene.bases, broken)
    job_id = scene.job(colour_rows(12))
    run(worker)
    said = " ".join(scene.messages(job_id))
    assert "of the base model tiny-random cannot be read on this worker" in said
    assert str(tmp_path) not in said
    worker.bases = scene.bases
    run(worker)
    assert scene.row(job_id).status == "succeeded"


def test_reading_a_large_file_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "READING_INTERVAL_S", 0)
    monkeypatch.setattr(prepare, "READ_BYTES", 1000)
    rows = jsonl(colour_rows(20))
    job_id = scene.job(rows)
    run(scene.worker())
    told = [m for m in scene.messages(job_id) if m.startswith("Reading")]
    percents = [100 * n // len(rows) for n in (*range(1000, len(rows), 1000), len(rows))]
    assert len(percents) > 2
    assert told == [f"Reading the training file: {n} % of {len(rows)} bytes" for n in percents]
    assert scene.row(job_id).status == "succeeded"


@pytest.mark.parametrize("asked", ["cancel", "pause", "stop"])
def test_reading_a_large_file_ends_when_it_shall(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(prepare, "READ_BYTES", 1000)
    job_id = scene.job(jsonl(colour_rows(100)))
    worker = scene.worker()
    read: list[int] = []
    leases: list[Lease] = []

    def tell(row: Json, number: int, *others: Any) -> object:
        if not read and asked == "stop":
            worker.stop()
        elif not read:
            verb = {"cancel": jobs.cancel, "pause": pauses.pause}[asked]
            scene.change(lambda session: verb(session, scene.project_id, job_id))
            wait_for(lambda: is_told(leases[0]), what="the heartbeat")
        read.append(number)
        return problem_of(row, number, *others)

    def remember(lease: Lease) -> None:
        leases.append(lease)
        Worker.check(worker, lease)

    monkeypatch.setattr("dataset.validation.problem_of", tell)
    monkeypatch.setattr(worker, "check", remember)
    run(worker)
    assert 0 < len(read) < 30
    expected = {"cancel": "cancelled", "pause": "paused", "stop": "validating_files"}
    assert scene.row(job_id).status == expected[asked]


def is_told(lease: Lease) -> bool:
    try:
        lease.check()
        lease.check_pausing()
    except (LostLease, Paused):
        return True
    return False
