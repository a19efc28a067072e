from __future__ import annotations

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from foundation.errors import FileNotFound
from storage.files import files
from storage.files.files import FileRow
from tests.storage.rows import add_file

Database = sessionmaker[Session]


def test_file_is_found_in_its_project_only(database: Database, project_id: str) -> None:
    with database.begin() as session:
        row = add_file(session, project_id)
        assert row.status == "processed"
        assert row.blob_key == f"files/{project_id}/{row.id}"
        assert files.get(session, project_id, row.id).filename == "rows.jsonl"
        with pytest.raises(FileNotFound, match=f"No such File object: {row.id}"):
            files.get(session, "proj_other", row.id)


def test_removed_file_is_gone(database: Database, project_id: str) -> None:
    with database.begin() as session:
        row = add_file(session, project_id)
        assert files.remove(session, project_id, row.id).blob_key == row.blob_key
        assert files.find(session, project_id, row.id) is None
        with pytest.raises(FileNotFound):
            files.remove(session, project_id, row.id)


def test_expired_file_is_hidden_before_it_is_removed(database: Database, project_id: str) -> None:
    with database.begin() as session:
        kept = add_file(session, project_id, expires_after_s=3600)
        assert kept.expires_at is not None
        assert (kept.expires_at - kept.created_at).total_seconds() == 3600
        expired = add_file(session, project_id)
        session.execute(
            update(FileRow).where(FileRow.id == expired.id).values(expires_at=func.now())
        )
    with database.begin() as session:
        assert files.find(session, project_id, expired.id) is None
        page = files.page(session, project_id, purpose=None, after=None, limit=10, descending=True)
        assert [row.id for row in page.rows] == [kept.id]
        assert files.remove_expired(session) == [expired.blob_key]
        assert files.remove_expired(session) == []


def test_pages_select_by_purpose_and_run_both_ways(database: Database, project_id: str) -> None:
    with database.begin() as session:
        tuning = [add_file(session, project_id).id for _ in range(3)]
        results = add_file(session, project_id, purpose="fine-tune-results").id

    def ids(
        *, purpose: str | None = None, after: str | None = None, descending: bool = True
    ) -> list[str]:
        with database() as session:
            page = files.page(
                session, project_id, purpose=purpose, after=after, limit=2, descending=descending
            )
        return [row.id for row in page.rows]

    assert ids() == [results, tuning[2]]
    assert ids(after=tuning[2]) == [tuning[1], tuning[0]]
    assert ids(descending=False) == [tuning[0], tuning[1]]
    assert ids(descending=False, after=tuning[1]) == [tuning[2], results]
    assert ids(purpose="fine-tune-results") == [results]
    assert ids(after="file-none") == []


def test_known_keys_are_those_with_a_row(database: Database, project_id: str) -> None:
    with database.begin() as session:
        row = add_file(session, project_id)
        stranger = f"files/proj_other/{row.id}"
        keys = [row.blob_key, f"files/{project_id}/file-none", stranger]
        assert files.known_keys(session, keys) == {row.blob_key}
