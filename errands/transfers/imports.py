"""An import: an archive with somebody else's adapter becomes an artifact and a model."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session

from errands.errands import Errands
from foundation.crash_points import crash_point
from storage.blobs import archive, artifact_keys
from storage.files import files
from storage.ids import new_id
from storage.models import artifacts, models, transfers

from . import bases, process
from .lease import TransferLease
from .process import TransferRefused


def make(errands: Errands, lease: TransferLease, folder: Path) -> None:
    """Raises TransferRefused, ProcessDied, LostLease, Stopped, and what the stores raise."""
    transfer = lease.transfer
    base = bases.find(errands, transfer.base_model)
    with errands.sessions() as session:
        file = files.find(session, transfer.project_id, transfer.file_id or "")
    if file is None:
        raise TransferRefused("file_not_found", f"No such File object: {transfer.file_id}")
    upload, adapter = folder / "upload", folder / "adapter"
    errands.blobs.get_file(file.blob_key, upload, size_bytes=file.size_bytes, sha256=file.sha256)
    request = {
        "kind": "import",
        **bases.words(errands, base),
        "upload": str(upload),
        "folder": str(adapter),
    }
    manifest = process.run(errands, lease, request, folder)
    crash_point("after_making")
    artifact_id = new_id(artifact_keys.ID_PREFIX)
    blob = archive.pack(adapter, errands.blobs, artifact_keys.key(artifact_id))
    crash_point("before_transfer_end")

    def write(session: Session) -> None:
        artifacts.create(
            session,
            artifact_id,
            project_id=transfer.project_id,
            base_model=base.id,
            kind=manifest["kind"],
            spec=manifest["spec"],
            tensors=manifest["tensors"],
            blob=blob,
        )
        model = models.create(
            session,
            models.new_name(base.id, transfer.owned_by, transfer.suffix),
            project_id=transfer.project_id,
            artifact_id=artifact_id,
            base_model=base.id,
            job_id=transfer.id,
            owned_by=transfer.owned_by,
        )
        transfers.succeed(session, lease.claim, model=model.name)

    lease.end(write)
    crash_point("after_transfer_end")
