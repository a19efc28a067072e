"""What the suite expects to find, under the names that it has for it: one function a resource.

Each of them takes its rows away, whatever a test made of them, and puts them back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, func
from sqlalchemy.orm import Session

from api.responses.request import CreateResponse
from modeling.importer import ensure_imported
from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobInfo, BlobStore
from storage.files import files, upload_parts
from storage.files.files import FileRow
from storage.files.upload_parts import UploadPartRow
from storage.files.uploads import UploadRow
from storage.inference import conversations, responses, stored_completions
from storage.inference.batches import WINDOW_S, BatchRow
from storage.inference.conversations import ConversationRow
from storage.inference.responses import ResponseRow
from storage.jobs import checkpoints, events, jobs
from storage.jobs.checkpoints import CheckpointRow
from storage.jobs.events import EventRow
from storage.jobs.jobs import JobRow
from storage.models import aliases, artifacts, models
from storage.models.artifacts import ArtifactRow
from storage.models.base_models import Catalogue
from storage.models.models import ModelRow
from storage.models.permissions import PermissionRow
from storage.organization import api_keys
from storage.organization.projects import ProjectRow
from tests.factories import colour_rows, jsonl
from tests.serving.parts import tar_of, write_classifier
from training.messages import Classification, Label

from .server import API_KEY, BASE

ROWS = jsonl(colour_rows(10))
BATCH_LINES = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/responses", '
    b'"body": {"model": "gpt-4o-mini", "input": "Hello"}}\n'
)
JOB = "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
TUNED_MODEL = "ft:gpt-4o-mini:acemeco:suffix:abc123"
SHARED_MODEL = "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd"
PERMISSION = "cp_zc4Q7MP6XxulcVzj4MZdwsAB"
OTHER_PROJECT = "string"
CLASSIFIER = "adapter-moderation"
LABELS = ["safe", "violence"]


@dataclass(frozen=True)
class Place:
    """Where the rows go."""

    session: Session
    blobs: BlobStore
    project_id: str

    def blob(self, key: str, content: bytes) -> BlobInfo:
        with self.blobs.writer(key) as writer:
            writer.write(content)
            return writer.commit()


def place_of(session: Session, blobs: BlobStore) -> Place:
    """In the project of the suite's key."""
    caller = api_keys.find_caller(session, API_KEY)
    assert caller is not None, "the server was started without the suite's key"
    return Place(session, blobs, caller.project_id)


def reset(place: Place) -> None:
    """Everything is as it was before the first test, apart from what tests have created."""
    for seed in RESOURCES:
        seed(place)


def _files(place: Place) -> None:
    for file_id, purpose, content in (
        ("file-abc123", "fine-tune", ROWS),
        ("file_id", "assistants", b"Example data"),
        ("input_file_id", "batch", BATCH_LINES),
    ):
        place.session.execute(delete(FileRow).where(FileRow.id == file_id))
        files.create(
            place.session,
            file_id,
            project_id=place.project_id,
            filename=f"{file_id}.jsonl",
            purpose=purpose,
            blob=place.blob(files.blob_key(place.project_id, file_id), content),
        )


def _uploads(place: Place) -> None:
    """An upload of no bytes, whose one part is empty."""
    upload_id, part_id = "upload_abc123", "string"
    place.session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))
    place.session.execute(delete(UploadRow).where(UploadRow.id == upload_id))
    place.session.add(
        UploadRow(
            id=upload_id,
            project_id=place.project_id,
            filename="filename",
            purpose="assistants",
            size_bytes=0,
            expires_at=func.now() + timedelta(hours=1),
        )
    )
    place.session.flush()
    blob = place.blob(upload_parts.blob_key(upload_id, part_id), b"")
    upload_parts.create(place.session, part_id, upload_id=upload_id, blob=blob)


def _models(place: Place) -> None:
    """The one that is deleted."""
    place.session.execute(delete(ModelRow).where(ModelRow.name == TUNED_MODEL))
    _model(place, TUNED_MODEL)


def _model(place: Place, name: str) -> None:
    artifact_id = "adapter-conformance"
    place.session.execute(delete(ModelRow).where(ModelRow.name == name))
    if place.session.get(ArtifactRow, artifact_id) is None:
        artifacts.create(
            place.session,
            artifact_id,
            project_id=place.project_id,
            base_model=BASE,
            kind="lora",
            spec={"rank": 8},
            tensors=None,
            blob=place.blob(artifact_keys.key(artifact_id), b"weights"),
        )
    models.create(
        place.session,
        name,
        project_id=place.project_id,
        artifact_id=artifact_id,
        base_model=BASE,
        job_id=JOB,
        owned_by="luthier",
    )


def _permissions(place: Place) -> None:
    """Two models under the names that the suite gives checkpoints, each shared with one project."""
    owner = place.session.get_one(ProjectRow, place.project_id)
    if place.session.get(ProjectRow, OTHER_PROJECT) is None:
        place.session.add(
            ProjectRow(
                id=OTHER_PROJECT,
                name="Other",
                organization_id=owner.organization_id,
                organization_slug=owner.organization_slug,
            )
        )
    for name, permission_id in ((JOB, "cp_listed"), (SHARED_MODEL, PERMISSION)):
        _model(place, name)
        place.session.add(
            PermissionRow(id=permission_id, model_name=name, project_id=OTHER_PROJECT)
        )
    place.session.flush()


def _jobs(place: Place) -> None:
    """A job in the middle of its training, with something in each of its lists.

    Its pause is asked for but not yet made, so that it can be paused and resumed alike.
    """
    for rows, job_id in (
        (EventRow, EventRow.job_id),
        (CheckpointRow, CheckpointRow.job_id),
        (JobRow, JobRow.id),
    ):
        place.session.execute(delete(rows).where(job_id == JOB))
    row = JobRow(
        id=JOB,
        project_id=place.project_id,
        organization_id="org-luthier",
        organization_slug="luthier",
        status="running",
        model=BASE,
        base_model=BASE,
        training_file="file-abc123",
        validation_file="file-abc123",
        method="supervised",
        hyperparameters={"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 2.0},
        seed=42,
        metadata_={"foo": "string"},
        pause_requested_at=func.now(),
    )
    jobs.create(place.session, row)
    metrics = {"step": 10, "train_loss": 1.4, "train_mean_token_accuracy": 0.5}
    events.add(
        place.session,
        JOB,
        "step:10",
        "Step 10/30: training loss=1.40",
        type="metrics",
        data={**metrics, "total_steps": 30},
    )
    checkpoints.create(
        place.session,
        job_id=JOB,
        step=10,
        model_name=f"ft:{BASE}:luthier::AF1WoRqd:ckpt-step-10",
        metrics=metrics,
    )


def _batches(place: Place) -> None:
    """One that is being worked on."""
    place.session.execute(delete(BatchRow).where(BatchRow.id == "batch_id"))
    place.session.add(
        BatchRow(
            id="batch_id",
            project_id=place.project_id,
            status="in_progress",
            endpoint="/v1/chat/completions",
            input_file_id="input_file_id",
            expires_at=func.now() + timedelta(seconds=WINDOW_S),
            in_progress_at=func.now(),
        )
    )
    place.session.flush()


def _stored_completions(place: Place) -> None:
    message = {"role": "assistant", "content": "Green.", "refusal": None}
    completion = {
        "id": "completion_id",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": BASE,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
    }
    stored_completions.create(
        place.session,
        place.project_id,
        completion=completion,
        # The client's type for these messages knows no other role, so the suite can meet no other.
        messages=[{"role": "assistant", "content": "Which colour is it?"}],
        metadata={"foo": "string"},
    )


def _responses(place: Place) -> None:
    """Two responses, one of them made in the background, and two conversations."""
    item: dict[str, object] = {
        "id": "msg_abc",
        "type": "message",
        "status": "completed",
        "role": "user",
    }
    item["content"] = [{"type": "input_text", "text": "Which colour is it?"}]
    said = {"type": "output_text", "text": "Green.", "annotations": [], "logprobs": []}
    answer = {"id": "msg_2", "type": "message", "status": "completed", "role": "assistant"}
    for response_id in ("resp_677efb5139a88190b512bc3fef8e535d", "response_id"):
        place.session.execute(delete(ResponseRow).where(ResponseRow.id == response_id))
        body = {
            **CreateResponse(background=True).told(BASE),
            "id": response_id,
            "object": "response",
            "created_at": 1_700_000_000,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "output": [{**answer, "content": [said]}],
            "usage": None,
        }
        responses.create(place.session, place.project_id, body=body, input=[item])
    for conversation_id in ("conv_123", "string"):
        place.session.execute(delete(ConversationRow).where(ConversationRow.id == conversation_id))
        conversations.create(place.session, place.project_id, conversation_id, {"foo": "string"})
        conversations.add_items(place.session, place.project_id, conversation_id, [item])


def _moderations(place: Place) -> None:
    """A classifier, which the project's moderations go by. No test changes it, so it is made once."""
    if place.session.get(ArtifactRow, CLASSIFIER) is not None:
        return
    base = Catalogue.load(None, {}).get(BASE)
    assert base is not None
    with tempfile.TemporaryDirectory() as folder:
        path = ensure_imported(base, Path(folder))
        content = tar_of(write_classifier(path, Path(folder) / "classifier", LABELS))
    artifacts.create(
        place.session,
        CLASSIFIER,
        project_id=place.project_id,
        base_model=BASE,
        kind="classifier",
        spec={"labels": LABELS},
        tensors=None,
        blob=place.blob(artifact_keys.key(CLASSIFIER), content),
    )
    labels = tuple(Label(text=text, token_ids=(row,)) for row, text in enumerate(LABELS))
    method = Classification(form="text", head=True, labels=labels)
    job = JobRow(
        id="ftjob-moderation",
        # The client's type for jobs knows no such method, so it must not be in the list that the suite reads.
        project_id=OTHER_PROJECT,
        organization_id="org-luthier",
        organization_slug="luthier",
        status="succeeded",
        model=BASE,
        base_model=BASE,
        training_file="file-abc123",
        method="classification",
        hyperparameters={},
        seed=42,
        train_config={"config": {"method": method.model_dump(mode="json")}},
    )
    model = models.create(
        place.session,
        f"ft:{BASE}:luthier::moderate",
        project_id=place.project_id,
        artifact_id=CLASSIFIER,
        base_model=BASE,
        job_id=jobs.create(place.session, job).id,
        owned_by="luthier",
    )
    aliases.bind(place.session, place.project_id, "omni-moderation-latest", model.name)


RESOURCES: tuple[Callable[[Place], None], ...] = (
    _files,
    _uploads,
    _models,
    _permissions,
    _jobs,
    _batches,
    _stored_completions,
    _responses,
    _moderations,
)
"""In an order in which rows that others refer to come first."""
