"""A worker with its parts, jobs for it to work on, and what there is to see afterwards."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from foundation.settings import Settings
from storage import leases
from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobStore, open_store
from storage.database import sessions, sync_engine
from storage.files import files
from storage.ids import new_id
from storage.jobs import checkpoints, events, jobs
from storage.jobs.events import EventRow
from storage.jobs.jobs import JobRow
from storage.models import models
from storage.models.artifacts import ArtifactRow
from storage.models.models import ModelRow
from storage.organization import projects
from tests.factories import Json, colour_rows, jsonl
from worker.bases import Bases
from worker.job.run import run
from worker.worker import Worker

FAKE_TRAINER = (sys.executable, "-m", "tests.worker.fake_trainer")
FAKE = "LUTHIER_FAKE_TRAINER"
"""How the fake trainer is told what to do: a `script`."""
STEPS = list(range(1, 16))
"""Of a job as `Scene.job` makes it."""


@dataclass
class Scene:
    """One database, one blob store, one data directory."""

    settings: Settings
    bases: Bases
    workers: list[Worker] = field(default_factory=list)
    job_id: str = ""

    def __post_init__(self) -> None:
        self.engine = sync_engine(self.settings.database_url)
        self.sessions = sessions(self.engine)
        self.blobs: BlobStore = open_store(self.settings.blob_url)
        with self.sessions.begin() as session:
            self.project_id = projects.create(session, "Test").id

    def worker(self, trainer_command: Sequence[str] = FAKE_TRAINER) -> Worker:
        worker = Worker(self.settings, trainer_command=trainer_command)
        worker.bases = self.bases
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.engine.dispose()

    def file(self, content: bytes, filename: str = "rows.jsonl") -> str:
        file_id = new_id("file-")
        with self.blobs.writer(files.blob_key(self.project_id, file_id)) as writer:
            writer.write(content)
            blob = writer.commit()
        with self.sessions.begin() as session:
            files.create(
                session,
                file_id,
                project_id=self.project_id,
                filename=filename,
                purpose="fine-tune",
                blob=blob,
            )
        return file_id

    def job(
        self,
        rows: Sequence[Json] | bytes | None = None,
        *,
        validation: Sequence[Json] | bytes | None = None,
        hyperparameters: Json | None = None,
        **values: Any,
    ) -> str:
        """A job as the api makes one: by default 10 rows, 3 epochs of 5 steps."""
        row = JobRow(
            **{
                "id": new_id("ftjob-"),
                "project_id": self.project_id,
                "organization_id": "org-luthier",
                "organization_slug": "luthier",
                "model": "tiny-random",
                "base_model": "tiny-random",
                "training_file": self.file(_content(rows or colour_rows(10))),
                "validation_file": self.file(_content(validation)) if validation else None,
                "method": "supervised",
                "hyperparameters": hyperparameters or {"n_epochs": 3, "batch_size": 2},
                "suffix": "colours",
                "seed": 7,
                **values,
            }
        )
        with self.sessions.begin() as session:
            return jobs.create(session, row).id

    def row(self, job_id: str) -> JobRow:
        with self.sessions() as session:
            return jobs.get(session, self.project_id, job_id)

    def events(self, job_id: str) -> list[EventRow]:
        """Oldest first."""
        with self.sessions() as session:
            return events.page(session, job_id, after=None, limit=100_000).rows[::-1]

    def messages(self, job_id: str) -> list[str]:
        return [event.message for event in self.events(job_id) if event.type == "message"]

    def steps(self, job_id: str) -> list[int]:
        with self.sessions() as session:
            return [data["step"] for data in events.metrics(session, job_id)]

    def metrics(self, job_id: str) -> list[Json]:
        with self.sessions() as session:
            return events.metrics(session, job_id)

    def checkpoints(self, job_id: str) -> list[checkpoints.CheckpointRow]:
        """Newest first."""
        with self.sessions() as session:
            return checkpoints.page(session, job_id, after=None, limit=100).rows

    def model(self, name: str) -> tuple[ModelRow, ArtifactRow]:
        with self.sessions() as session:
            found = models.find(session, self.project_id, name)
        assert found is not None, name
        return found

    def artifact_files(self, name: str) -> dict[str, bytes]:
        """What the blob of the model's artifact holds."""
        _, artifact = self.model(name)
        content = b"".join(
            self.blobs.read(
                artifact.blob_key, size_bytes=artifact.size_bytes, sha256=artifact.sha256
            )
        )
        found = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
        return found

    def artifact_tensors(self, name: str) -> Json:
        """What the artifact's row says of each tensor."""
        with self.sessions() as session:
            found = models.find(session, self.project_id, name)
            assert found is not None
            assert found[1].tensors is not None
            return found[1].tensors

    def weights(self, job_id: str) -> bytes:
        name = self.row(job_id).fine_tuned_model
        assert name is not None
        return self.artifact_files(name)["adapter_model.safetensors"]

    def blob_keys(self, prefix: str) -> list[str]:
        return sorted(self.blobs.list(prefix))

    def artifact_keys(self) -> list[str]:
        """The blobs that the artifacts' rows point at."""
        with self.sessions() as session:
            ids = session.scalars(select(ArtifactRow.id)).all()
        return sorted(artifact_keys.key(artifact_id) for artifact_id in ids)

    def set(self, **values: Any) -> None:
        """Write columns of every job, past all the rules."""
        self.change(lambda session: session.execute(update(JobRow).values(**values)))

    def runnable(self) -> list[str]:
        with self.sessions() as session:
            return leases.runnable(session, JobRow, 99)

    def end_pauses(self) -> None:
        self.set(not_before=func.now())

    def change(self, work: Callable[[Session], Any]) -> None:
        with self.sessions.begin() as session:
            work(session)


def _content(rows: Sequence[Json] | bytes) -> bytes:
    return rows if isinstance(rows, bytes) else jsonl(rows)


def wait_for(is_true: Callable[[], object], timeout_s: float = 120, what: str = "it") -> None:
    """What happens in a moment may take a hundred times as long on a machine that is busy."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)


def script(**behaviour: Any) -> str:
    """The value of `FAKE`."""
    return json.dumps(behaviour)


def run_on_thread(worker: Worker) -> threading.Thread:
    thread = threading.Thread(target=run, args=(worker,), daemon=True)
    thread.start()
    return thread


def assert_as_if_nothing_broke(scene: Scene, job_id: str, finished: Scene) -> None:
    """I1 to I5, I8 and I10: the job equals one that ran through."""
    job, unbroken = scene.row(job_id), finished.row(finished.job_id)
    assert job.status == "succeeded", job.error
    assert job.trained_tokens == unbroken.trained_tokens
    assert job.crashes == 0 or job.attempt > 1
    assert scene.steps(job_id) == STEPS
    assert scene.weights(job_id) == finished.weights(finished.job_id)
    told = [e.key for e in scene.events(job_id) if e.level == "info"]
    assert told == [e.key for e in finished.events(finished.job_id) if e.level == "info"]
    assert len(set(told)) == len(told)
    assert [c.step for c in scene.checkpoints(job_id)] == [15, 10, 5]
    assert scene.blob_keys("jobs/") == []
    assert set(scene.artifact_keys()) <= set(scene.blob_keys("artifacts/"))
