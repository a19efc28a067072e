"""Rows to test with, as plain functions."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from storage.blobs.blobs import BlobInfo
from storage.files import files
from storage.files.files import FileRow
from storage.ids import new_id
from storage.inference import batches
from storage.inference.batches import BatchRow
from storage.jobs import jobs
from storage.jobs.jobs import JobRow

Json = dict[str, Any]


def add_job(session: Session, project_id: str, **values: Any) -> JobRow:
    row = JobRow(
        **{
            "id": new_id("ftjob-"),
            "project_id": project_id,
            "organization_id": "org-luthier",
            "organization_slug": "luthier",
            "model": "tiny-random",
            "base_model": "tiny-random",
            "training_file": "file-training",
            "method": "supervised",
            "hyperparameters": {"n_epochs": "auto"},
            "seed": 7,
            **values,
        }
    )
    return jobs.create(session, row)


def add_batch(session: Session, project_id: str) -> BatchRow:
    return batches.create(
        session,
        new_id("batch_"),
        project_id=project_id,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        metadata=None,
        output_expires_after_s=None,
    )


def add_file(session: Session, project_id: str, **values: Any) -> FileRow:
    file_id = new_id("file-")
    blob = BlobInfo(files.blob_key(project_id, file_id), 3, "0" * 64)
    return files.create(
        session,
        file_id,
        **{
            "project_id": project_id,
            "filename": "rows.jsonl",
            "purpose": "fine-tune",
            "blob": blob,
            **values,
        },
    )
