from __future__ import annotations

import hashlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from anyio.to_thread import run_sync
from sqlalchemy import func, update
from sqlalchemy.orm import Session

from api.files import assembly
from storage.blobs import blobs
from storage.files import upload_parts, uploads
from storage.files.upload_parts import UploadPartRow
from storage.files.uploads import UploadRow
from tests.api.stack import Api, Tenant, running_api
from tests.factories import colour_rows, jsonl

ROWS = jsonl(colour_rows(10))


def stored(api: Api, tenant: Tenant, upload_id: str = "") -> tuple[list[str], list[str]]:
    """The keys of the project's files' blobs, and of the upload's parts'."""
    return (
        list(api.blobs.list(f"files/{tenant.project_id}/")),
        sorted(api.blobs.list(f"uploads/{upload_id}/")) if upload_id else [],
    )


def create(client: openai.OpenAI, size: int, purpose: Any = "user_data") -> openai.types.Upload:
    return client.uploads.create(
        bytes=size, filename="rows.jsonl", mime_type="application/jsonl", purpose=purpose
    )


def send(client: openai.OpenAI, upload_id: str, data: bytes) -> str:
    return client.uploads.parts.create(upload_id, data=data).id


def refused(call: Any, *args: Any, **kwargs: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        call(*args, **kwargs)
    return caught.value


def end_life(api: Api, upload_id: str, *, seconds_ago: int = 0) -> None:
    with api.sessions.begin() as session:
        ended_at = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds_ago)
        session.execute(
            update(UploadRow).where(UploadRow.id == upload_id).values(expires_at=ended_at)
        )


def test_parts_become_a_file_in_the_order_that_completing_names(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    upload = create(client, 9)
    assert (upload.status, upload.bytes, upload.file) == ("pending", 9, None)
    assert upload.id.startswith("upload_")
    assert abs(upload.created_at - time.time()) < 5
    assert upload.expires_at == upload.created_at + 3600
    # Sent in another order, and one of them in vain.
    last, _, first, middle = (send(client, upload.id, d) for d in (b"ccc", b"x", b"aaa", b"bbb"))
    md5 = hashlib.md5(b"aaabbbccc").hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[first, middle, last], md5=md5.upper())
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == b"aaabbbccc"
    assert client.files.retrieve(done.file.id) == done.file
    assert (done.file.filename, done.file.purpose, done.file.bytes) == (
        "rows.jsonl",
        "user_data",
        9,
    )
    assert stored(api, tenant, upload.id) == ([f"files/{tenant.project_id}/{done.file.id}"], [])


def test_the_client_s_own_chunks_make_the_file(
    client: openai.OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(ROWS)
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="application/jsonl", purpose="fine-tune", part_size=200
    )
    assert done.file is not None
    assert client.files.content(done.file.id).read() == ROWS
    in_memory = client.uploads.upload_file_chunked(
        file=b"a" * 1000,
        filename="../a b.txt",
        bytes=1000,
        mime_type="text/plain",
        purpose="assistants",
        md5=hashlib.md5(b"a" * 1000).hexdigest(),
    )
    assert in_memory.file is not None
    assert in_memory.file.filename == "a b.txt"


def test_training_rows_are_checked_across_the_parts_borders(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    content = ROWS + b"{broken\n"
    upload = create(client, len(content), "fine-tune")
    parts = [send(client, upload.id, content[i : i + 100]) for i in range(0, len(content), 100)]
    error = refused(client.uploads.complete, upload.id, part_ids=parts)
    assert "every line is a valid JSON dictionary. Line 11 is not" in error.message
    assert error.param == "file"
    files, kept = stored(api, tenant, upload.id)
    assert files == []
    # It is still pending: the broken part can be sent anew.
    assert len(kept) == len(parts)
    mended = content[-(len(content) % 100) :].replace(b"{broken\n", b'{"a":1}\n')
    done = client.uploads.complete(
        upload.id, part_ids=[*parts[:-1], send(client, upload.id, mended)]
    )
    assert done.status == "completed"


def test_what_does_not_fit_is_refused_and_leaves_the_upload_pending(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    upload, other = create(client, 4), create(client, 2)
    part, foreign = send(client, upload.id, b"ab"), send(client, other.id, b"cd")
    for part_ids, words in (
        ([part], f"The parts have 2 bytes together, but upload {upload.id} was created for 4."),
        ([part, part], "Invalid 'part_ids': a part is named twice."),
        ([part, foreign], f"Invalid 'part_ids[1]': upload {upload.id} has no part '{foreign}'."),
        ([], "The parts have 0 bytes together"),
    ):
        error = refused(client.uploads.complete, upload.id, part_ids=part_ids)
        assert words in error.message
        assert error.param == "part_ids"
    whole = [part, send(client, upload.id, b"cd")]
    error = refused(client.uploads.complete, upload.id, part_ids=whole, md5="md5")
    found = hashlib.md5(b"abcd").hexdigest()
    assert f"The parts' content has the MD5 checksum {found}, not 'md5'." in error.message
    assert (error.param, error.code) == ("md5", "md5_mismatch")
    assert stored(api, tenant)[0] == []
    assert client.uploads.complete(upload.id, part_ids=whole).status == "completed"


def test_an_ended_upload_takes_nothing_more(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    completed, cancelled, expired = (create(client, 0) for _ in range(3))
    client.uploads.complete(completed.id, part_ids=[])
    send(client, cancelled.id, b"x")
    assert client.uploads.cancel(cancelled.id).status == "cancelled"
    end_life(api, expired.id)
    for upload, status in (
        (completed, "completed"),
        (cancelled, "cancelled"),
        (expired, "expired"),
    ):
        for call in (
            lambda id: send(client, id, b"x"),
            client.uploads.cancel,
            lambda id: client.uploads.complete(id, part_ids=[]),
        ):
            error = refused(call, upload.id)
            assert f"Upload {upload.id} is {status}: " in error.message
            assert error.code == f"upload_{status}"
        assert stored(api, tenant, upload.id)[1] == []


def test_of_several_who_complete_at_once_one_does(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    upload = create(client, 3)
    part = send(client, upload.id, b"abc")

    def complete(_: int) -> str:
        try:
            return client.uploads.complete(upload.id, part_ids=[part]).status
        except openai.BadRequestError as error:
            return str(error.code)

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(complete, range(6)))
    assert outcomes == ["completed"] + ["upload_completed"] * 5
    with api.sessions() as session:
        row = session.get(UploadRow, upload.id)
    assert row is not None
    assert stored(api, tenant, upload.id) == ([f"files/{tenant.project_id}/{row.file_id}"], [])
    assert client.files.content(str(row.file_id)).read() == b"abc"


def test_an_upload_that_ends_while_its_parts_are_looked_up_is_told_as_ended(
    api: Api, tenant: Tenant, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = create(client, 3)
    part = send(client, upload.id, b"abc")
    read_parts = upload_parts.all

    def cancel_and_read(session: Session, upload_id: str) -> list[UploadPartRow]:
        with api.sessions.begin() as other:
            uploads.cancel(other, tenant.project_id, upload_id)
        return read_parts(session, upload_id)

    monkeypatch.setattr(upload_parts, "all", cancel_and_read)
    error = refused(lambda id: client.uploads.complete(id, part_ids=[part]), upload.id)
    assert error.code == "upload_cancelled"


def test_the_file_expires_as_asked_when_the_upload_was_created(client: openai.OpenAI) -> None:
    upload = client.uploads.create(
        bytes=0,
        filename="a",
        mime_type="text/plain",
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 7200},
    )
    file = client.uploads.complete(upload.id, part_ids=[]).file
    assert file is not None
    assert file.expires_at == file.created_at + 7200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"bytes": "7"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": None}, "filename"),
        ({"mime_type": 7}, "mime_type"),
        ({"purpose": "world_domination"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
    ],
)
def test_a_bad_field_is_400_and_named(
    api: Api, tenant: Tenant, change: dict[str, Any], param: str
) -> None:
    body = {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"} | change
    with api.http(tenant) as http:
        reply = http.post("/v1/uploads", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_a_part_too_large_is_413_and_leaves_nothing(
    api: Api, tenant: Tenant, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = create(client, 10)
    monkeypatch.setattr(upload_parts, "MAX_BYTES", 1000)
    with pytest.raises(openai.APIStatusError) as caught:
        send(client, upload.id, b"x" * 1001)
    assert (caught.value.status_code, caught.value.param) == (413, "data")
    assert stored(api, tenant, upload.id)[1] == []
    with api.http(tenant) as http:
        reply = http.post(f"/v1/uploads/{upload.id}/parts", files={"file": b"x"})
    assert "Missing required parameter: 'data'" in reply.json()["error"]["message"]


def test_parts_together_and_pending_uploads_are_limited(
    api: Api, tenant: Tenant, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = create(client, 10)
    send(client, upload.id, b"x" * 6)
    monkeypatch.setattr(uploads, "MAX_BYTES", 10)
    assert "10 bytes together" in refused(send, client, upload.id, b"x" * 5).message
    monkeypatch.setattr(uploads, "MAX_PARTS", 1)
    assert "already has 1 parts" in refused(send, client, upload.id, b"").message
    assert len(stored(api, tenant, upload.id)[1]) == 1
    monkeypatch.setattr(uploads, "MAX_PENDING", 1)
    assert refused(create, client, 1).code == "too_many_uploads"
    client.uploads.cancel(upload.id)
    assert create(client, 1).status == "pending"


def test_another_project_s_upload_is_as_none(api: Api, client: openai.OpenAI) -> None:
    with api.client(api.tenant()) as owner:
        upload = create(owner, 2)
        part = send(owner, upload.id, b"ab")

        def messages(upload_id: str) -> list[str]:
            calls = (
                lambda: send(client, upload_id, b"x"),
                lambda: client.uploads.complete(upload_id, part_ids=[part]),
                lambda: client.uploads.cancel(upload_id),
            )
            found = []
            for call in calls:
                with pytest.raises(openai.NotFoundError) as caught:
                    call()
                found.append(str(caught.value).replace(upload_id, "ID"))
            return found

        assert messages(upload.id) == messages("upload_unknown")
        mine = create(client, 2)
        assert "has no part" in refused(client.uploads.complete, mine.id, part_ids=[part]).message
        assert owner.uploads.complete(upload.id, part_ids=[part]).status == "completed"


def test_a_part_cancelled_away_while_the_file_is_put_together_is_no_fault_of_the_server(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = create(client, 2)
    part = send(client, upload.id, b"ab")
    assemble = assembly.assemble

    async def cancelled_meanwhile(*args: Any, **kwargs: Any) -> Any:
        await run_sync(client.uploads.cancel, upload.id)
        return await assemble(*args, **kwargs)

    monkeypatch.setattr(assembly, "assemble", cancelled_meanwhile)
    error = refused(client.uploads.complete, upload.id, part_ids=[part])
    assert error.code == "upload_cancelled"


def test_uploads_work_on_s3(api: Api, tenant: Tenant, s3_url: str) -> None:
    content = bytes(range(256)) * 80_000  # more than one part of S3's own
    with running_api(api.settings.replace(blob_url=s3_url)) as other, other.client(tenant) as s3:
        done = s3.uploads.upload_file_chunked(
            file=io.BytesIO(content).getvalue(),
            filename="a",
            bytes=len(content),
            mime_type="text/plain",
            purpose="user_data",
            part_size=6_000_000,
        )
        assert done.file is not None
        assert s3.files.content(done.file.id).read() == content
        assert list(blobs.open_store(s3_url).list("")) == [
            f"files/{tenant.project_id}/{done.file.id}"
        ]
