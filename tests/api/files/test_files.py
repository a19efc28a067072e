from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import func, update

from foundation.errors import BlobError
from storage.blobs import blobs
from storage.files import files
from storage.files.files import FileRow
from storage.ids import new_id
from tests.api.stack import Api, Tenant
from tests.factories import colour_rows, jsonl

ROWS = jsonl(colour_rows(10))


def stored(api: Api, tenant: Tenant) -> list[str]:
    """The keys of the project's blobs."""
    return list(api.blobs.list(f"files/{tenant.project_id}/"))


def result_file(api: Api, tenant: Tenant, content: bytes) -> str:
    """A file as a worker publishes it."""
    file_id = new_id("file-")
    with api.blobs.writer(files.blob_key(tenant.project_id, file_id)) as writer:
        writer.write(content)
        blob = writer.commit()
    with api.sessions.begin() as session:
        files.create(
            session,
            file_id,
            project_id=tenant.project_id,
            filename="step_metrics.csv",
            purpose="fine-tune-results",
            blob=blob,
        )
    return file_id


def test_upload_retrieve_list_read_and_delete(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    file = client.files.create(file=("Zeilen ü.jsonl", ROWS), purpose="fine-tune")
    assert file.id.startswith("file-")
    assert (file.bytes, file.purpose, file.status) == (len(ROWS), "fine-tune", "processed")
    assert file.filename == "Zeilen ü.jsonl"
    assert abs(file.created_at - time.time()) < 5
    assert file.expires_at is None
    assert client.files.retrieve(file.id) == file
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert [f.id for f in client.files.list()] == [file.id]
    reply = client.files.with_raw_response.content(file.id)
    assert reply.content == ROWS
    assert reply.headers["content-type"] == "application/octet-stream"
    assert "filename*=UTF-8''Zeilen%20%C3%BC.jsonl" in reply.headers["content-disposition"]
    assert stored(api, tenant) == [f"files/{tenant.project_id}/{file.id}"]
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    assert stored(api, tenant) == []
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file.id)
        assert caught.value.body == {
            "message": f"No such File object: {file.id}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }


def test_bytes_without_a_name_and_empty_files_of_other_purposes(client: openai.OpenAI) -> None:
    file = client.files.create(file=b"", purpose="user_data")
    assert (file.filename, file.bytes) == ("upload", 0)
    assert client.files.content(file.id).read() == b""


def test_a_bad_line_is_refused_in_openai_s_words_and_leaves_nothing(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("rows.jsonl", ROWS + b"{broken\n"), purpose="fine-tune")
    assert caught.value.param == "file"
    assert "every line is a valid JSON dictionary. Line 11 is not" in caught.value.message
    assert stored(api, tenant) == []
    assert list(client.files.list()) == []
    # Another purpose asks nothing of the lines.
    assert client.files.create(file=("rows.jsonl", b"{broken"), purpose="user_data").bytes == 7


def test_pages_follow_the_cursor_in_either_order(client: openai.OpenAI) -> None:
    ids = [
        client.files.create(file=(f"{i}", b"x"), purpose="user_data" if i % 2 else "batch").id
        for i in range(5)
    ]
    page = client.files.list(limit=2)
    assert [f.id for f in page.data] == ids[:2:-1]
    assert page.has_more
    raw = client.files.with_raw_response.list(limit=2).http_response.json()
    assert (raw["first_id"], raw["last_id"], raw["object"]) == (ids[4], ids[3], "list")
    assert [f.id for f in client.files.list(limit=2)] == ids[::-1]
    assert [f.id for f in client.files.list(order="asc", limit=3)] == ids
    assert [f.id for f in client.files.list(purpose="batch")] == ids[4::-2]
    assert list(client.files.list(purpose="no such purpose")) == []
    for empty in (client.files.list(limit=0), client.files.list(after="file-unknown")):
        assert empty.data == []
        assert not empty.has_more


def test_errors_about_files_are_told_twice_as_openai_does(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    with api.http(tenant) as http:
        unknown = http.get("/v1/files/file-unknown").json()
        invalid = http.get("/v1/files?limit=x").json()
        elsewhere = http.get("/v1/models/unknown").json()
    assert unknown["detail"] == {"message": "No such File object: file-unknown", "code": None}
    assert invalid["detail"] == {
        "message": invalid["error"]["message"],
        "code": "invalid_type",
    }
    assert elsewhere.keys() == {"error"}


def test_every_purpose_is_taken_and_batches_inputs_go_after_a_month(client: openai.OpenAI) -> None:
    purposes: list[Any] = ["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]
    made = [client.files.create(file=ROWS, purpose=purpose) for purpose in purposes]
    assert [file.purpose for file in made] == purposes
    for file in made:
        lives_s = file.expires_at and file.expires_at - file.created_at
        assert lives_s == (30 * 24 * 3600 if file.purpose == "batch" else None)
        assert [f.id for f in client.files.list(purpose=file.purpose)] == [file.id]
    file = client.files.create(
        file=ROWS, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at == file.created_at + 3600


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=10001", "integer above maximum value. Expected a value <= 10000, but got 10001"),
        ("limit=-1", "integer below minimum value. Expected a value >= 0, but got -1"),
        ("limit=x", "Invalid type for 'limit': expected an integer, but got a string"),
        ("order=up", "Invalid value: 'up'. Supported values are: 'asc' or 'desc'"),
    ],
)
def test_bad_parameters_of_a_list_are_400(
    api: Api, tenant: Tenant, query: str, message: str
) -> None:
    with api.http(tenant) as http:
        reply = http.get(f"/v1/files?{query}")
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]
    assert reply.json()["error"]["param"] == query.partition("=")[0]


def test_a_file_expires(api: Api, client: openai.OpenAI) -> None:
    file = client.files.create(
        file=b"x",
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    with api.sessions.begin() as session:
        session.execute(update(FileRow).where(FileRow.id == file.id).values(expires_at=func.now()))
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 3 * 256 * 1024, 3 * 256 * 1024 + 1, 2_000_000])
def test_a_result_file_comes_as_base64(
    api: Api, tenant: Tenant, client: openai.OpenAI, size: int
) -> None:
    content = bytes(i % 251 for i in range(size))
    reply = client.files.with_raw_response.content(result_file(api, tenant, content))
    assert base64.b64decode(reply.content, validate=True) == content
    assert int(reply.headers["content-length"]) == len(reply.content)


def test_a_damaged_blob_is_never_served_as_a_whole(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    content = b"x" * 2_000_000
    for damaged in (b"y" + content[1:], content[:-1] + b"y", content[:-1], None):
        file = client.files.create(file=content, purpose="user_data")
        path = Path(api.settings.blob_url.removeprefix("file://"), stored(api, tenant)[0])
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        with pytest.raises(openai.OpenAIError) as caught:
            client.files.content(file.id).read()
        # A wrong size shows before the first byte, a wrong hash only at the end.
        if damaged is None or len(damaged) != len(content):
            assert isinstance(caught.value, openai.InternalServerError)
            assert "blob" not in caught.value.message
        client.files.delete(file.id)


def test_deleting_survives_a_blob_store_that_fails(
    api: Api, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BlobError("no")

    file = client.files.create(file=b"x", purpose="user_data")
    monkeypatch.setattr(type(api.blobs), "delete", fail)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_files_work_on_s3(api: Api, tenant: Tenant, s3_url: str) -> None:

    from tests.api.stack import running_api

    with running_api(api.settings.replace(blob_url=s3_url)) as other, other.client(tenant) as s3:
        content = bytes(range(256)) * 40_000  # more than one part
        file = s3.files.create(file=content, purpose="user_data")
        assert s3.files.content(file.id).read() == content
        assert list(blobs.open_store(s3_url).list("")) == [f"files/{tenant.project_id}/{file.id}"]
        with pytest.raises(openai.BadRequestError):
            s3.files.create(file=b"{" + content, purpose="fine-tune")
        s3.files.delete(file.id)
        assert list(blobs.open_store(s3_url).list("")) == []
