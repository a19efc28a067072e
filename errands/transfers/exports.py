"""An export: a tuned model becomes a tar of a folder, with a model card and a signed manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from errands.errands import Errands
from foundation.crash_points import crash_point
from storage.blobs import archive
from storage.files import files
from storage.jobs.checkpoints import CheckpointRow
from storage.jobs.jobs import JobRow
from storage.leases import LostLease
from storage.models import models, signing_keys, transfers
from storage.models.artifacts import PEFT_KINDS
from storage.models.base_models import BaseModel
from storage.models.transfers import TransferRow
from storage.reports import reports
from storage.reports.reports import ReportRow

from . import bases, card, manifest, process
from .card import Facts
from .lease import TransferLease
from .process import TransferRefused


def make(errands: Errands, lease: TransferLease, folder: Path) -> None:
    """Raises TransferRefused, ProcessDied, LostLease, Stopped, and what the stores raise."""
    transfer = lease.transfer
    base = bases.find(errands, transfer.base_model)
    with errands.sessions.begin() as session:
        facts = _facts(session, transfer, base)
        report = _report_row(session, facts)
        key = signing_keys.of_installation(session, errands.vault)
    if report is not None:
        facts = replace(facts, report=_report(errands, report))
    artifact = _fetch(errands, facts, folder)
    made = folder / "export"
    if transfer.format == "peft":
        if facts.artifact.kind not in PEFT_KINDS:
            raise TransferRefused(
                "invalid_format",
                f"A model of the kind '{facts.artifact.kind}' is no adapter, so PEFT has no format for it. Export "
                "it with the format 'safetensors' or 'gguf'.",
            )
        artifact.rename(made)
    else:
        made.mkdir()
        request = {
            "kind": "export",
            **bases.words(errands, base),
            "artifact_dir": str(artifact),
            "artifact_kind": facts.artifact.kind,
            "format": transfer.format,
            "quantization": transfer.quantization,
            "model": facts.model.name,
            "license": base.license,
            "folder": str(made),
        }
        process.run(errands, lease, request, folder)
    (made / card.NAME).write_text(card.text(facts), encoding="utf-8")
    manifest.sign(made, _about(facts), key)
    crash_point("after_making")
    described = manifest.describe(made)
    lease.check()
    blob = archive.pack(made, errands.blobs, transfer.blob_key)
    crash_point("before_transfer_end")
    lease.end(lambda session: transfers.succeed(session, lease.claim, files=described, blob=blob))
    crash_point("after_transfer_end")


def _facts(session: Session, transfer: TransferRow, base: BaseModel) -> Facts:
    """Raises LostLease for a model that is gone: its exports are gone with it."""
    found = models.find(session, transfer.project_id, transfer.model or "")
    if found is None:
        raise LostLease(transfer.id)
    model, artifact = found
    job = session.scalar(
        select(JobRow).where(JobRow.id == model.job_id, JobRow.project_id == transfer.project_id)
    )
    metrics = session.scalar(
        select(CheckpointRow.metrics).where(
            CheckpointRow.job_id == model.job_id, CheckpointRow.model_name == model.name
        )
    )
    return Facts(transfer, model, artifact, base, job, metrics, _data_sha256(session, job))


def _report_row(session: Session, facts: Facts) -> ReportRow | None:
    """On the job whose model this is, once it is made; checkpoints have none."""
    if facts.job is None or facts.job.fine_tuned_model != facts.model.name:
        return None
    row = reports.find(session, facts.job.project_id, facts.job.id)
    return row if row is not None and row.blob_key is not None else None


def _report(errands: Errands, row: ReportRow) -> dict[str, Any]:
    chunks = errands.blobs.read(
        row.blob_key or "", size_bytes=row.size_bytes or 0, sha256=row.sha256 or ""
    )
    found: dict[str, Any] = orjson.loads(b"".join(chunks))
    return found


def _data_sha256(session: Session, job: JobRow | None) -> dict[str, str]:
    if job is None:
        return {}
    if job.data_sha256 is not None:
        return job.data_sha256
    # A job of an earlier version: its files may still be there.
    named = {"training_file": job.training_file, "validation_file": job.validation_file}
    ids = [file_id for file_id in named.values() if file_id is not None]
    found = files.find_all(session, job.project_id, ids)
    return {
        field: found[file_id].sha256
        for field, file_id in named.items()
        if file_id is not None and file_id in found
    }


def _fetch(errands: Errands, facts: Facts, folder: Path) -> Path:
    """The artifact's own folder."""
    artifact, packed = facts.artifact, folder / "artifact.tar"
    errands.blobs.get_file(
        artifact.blob_key, packed, size_bytes=artifact.size_bytes, sha256=artifact.sha256
    )
    unpacked = archive.unpack(packed, folder / "artifact")
    packed.unlink()
    return unpacked


def _about(facts: Facts) -> manifest.Json:
    """Nothing of the moment: an attempt that begins anew signs the same bytes."""
    transfer, artifact, base = facts.transfer, facts.artifact, facts.base
    return {
        "export": transfer.id,
        "created_at": int(transfer.created_at.timestamp()),
        "model": facts.model.name,
        "job": facts.job.id if facts.job else None,
        "format": transfer.format,
        "quantization": transfer.quantization,
        "artifact": {"id": artifact.id, "kind": artifact.kind, "sha256": artifact.sha256},
        "base": {"model": base.id, "revision": base.revision, "license": base.license},
        "data_sha256": dict(facts.data_sha256),
    }
