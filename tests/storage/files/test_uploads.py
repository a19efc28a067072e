from __future__ import annotations

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from foundation.errors import InvalidRequest, UploadNotFound
from storage.blobs.blobs import BlobInfo
from storage.files import files, upload_parts, uploads
from storage.files.uploads import UploadRow
from storage.ids import new_id

Database = sessionmaker[Session]


def add_upload(session: Session, project_id: str, size_bytes: int = 3) -> UploadRow:
    return uploads.create(
        session,
        project_id=project_id,
        filename="rows.jsonl",
        purpose="user_data",
        size_bytes=size_bytes,
    )


def add_part(session: Session, upload: UploadRow, size_bytes: int = 3) -> str:
    part_id = new_id("part_")
    blob = BlobInfo(upload_parts.blob_key(upload.id, part_id), size_bytes, "0" * 64)
    return uploads.add_part(session, upload.project_id, upload.id, part_id, blob).blob_key


def end_life(session: Session, upload: UploadRow, seconds_ago: int) -> None:
    ended_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds_ago)
    session.execute(update(UploadRow).where(UploadRow.id == upload.id).values(expires_at=ended_at))


def test_an_upload_lives_for_an_hour_in_its_project(database: Database, project_id: str) -> None:
    with database.begin() as session:
        upload = add_upload(session, project_id)
        assert (upload.expires_at - upload.created_at).total_seconds() == 3600
        assert uploads.pending(session, project_id, upload.id).status == "pending"
        with pytest.raises(UploadNotFound, match=f"No such Upload object: {upload.id}"):
            uploads.pending(session, "proj_other", upload.id)
        end_life(session, upload, 0)
        with pytest.raises(InvalidRequest, match=f"Upload {upload.id} is expired"):
            uploads.pending(session, project_id, upload.id)


def test_what_was_begun_in_time_may_end_after_it_and_only_once(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        upload = add_upload(session, project_id)
        part = add_part(session, upload)
        end_life(session, upload, uploads.GRACE_S - 60)
        assert uploads.remove_expired(session) == []
        blob = BlobInfo(files.blob_key(project_id, "file-1"), 3, "0" * 64)
        row, file, keys = uploads.complete(session, project_id, upload.id, "file-1", blob)
        assert (row.status, row.file_id, keys) == ("completed", "file-1", [part])
        assert (file.filename, file.size_bytes) == ("rows.jsonl", 3)
        with pytest.raises(InvalidRequest, match="is completed"):
            uploads.complete(session, project_id, upload.id, "file-2", blob)
        assert files.find(session, project_id, "file-2") is None


def test_the_sweep_ends_what_nobody_completed(database: Database, project_id: str) -> None:
    with database.begin() as session:
        abandoned, young = add_upload(session, project_id), add_upload(session, project_id)
        gone = sorted(add_part(session, abandoned) for _ in range(2))
        kept = add_part(session, young)
        end_life(session, abandoned, uploads.GRACE_S)
    with database.begin() as session:
        assert sorted(uploads.remove_expired(session)) == gone
        assert uploads.remove_expired(session) == []
        assert upload_parts.known_keys(session, [*gone, kept, "uploads/x/part_x"]) == {kept}
        row = session.get(UploadRow, abandoned.id)
        assert row is not None
        assert row.status == "expired"
        assert uploads.cancel(session, project_id, young.id)[1] == [kept]
