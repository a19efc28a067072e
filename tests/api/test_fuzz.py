"""Uploads of whatever a client may send: an answer in OpenAI's shape, and nothing left of what was refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from storage.files.upload_parts import UploadPartRow
from tests.api.files.odd_uploads import BODIES, CONTENT_TYPES, FILENAMES, FITTING, JSONL, odd_part
from tests.api.files.test_multipart import form, part
from tests.api.stack import Api, Tenant

TIMEOUT_S = 30
EXAMPLES = 20
OPTIONS: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@dataclass(frozen=True)
class Uploader:
    """A client of a project that has no files between two uploads."""

    api: Api
    tenant: Tenant
    http: httpx.Client

    def post(self, path: str, body: bytes, content_type: bytes, cuts: int = 1) -> Any:
        """The answer's JSON, and whether the body was taken."""
        length = max(1, -(-len(body) // cuts))
        pieces = (body[at : at + length] for at in range(0, len(body), length))
        reply = self.http.post(
            path, content=body if cuts == 1 else pieces, headers={b"content-type": content_type}
        )
        answer = reply.json()
        if reply.status_code == 200:
            return answer
        assert 400 <= reply.status_code < 500, (reply.status_code, reply.text)
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]
        assert error["type"] == "invalid_request_error"
        for name in ("param", "code"):
            assert error[name] is None or isinstance(error[name], str)
        return None

    def upload(self, body: bytes, content_type: bytes, cuts: int = 1) -> bytes | None:
        """The file's bytes as the server gives them back; None if it was refused."""
        file = self.post("/v1/files", body, content_type, cuts)
        content = None
        if file is not None:
            try:
                content = self.read(file)
            finally:
                assert self.http.delete(f"/v1/files/{file['id']}").status_code == 200
        assert self.files() == []
        assert self.blobs(f"files/{self.tenant.project_id}/") == set()
        return content

    def read(self, file: Any) -> bytes:
        assert [found["id"] for found in self.files()] == [file["id"]]
        assert file["filename"].isprintable()
        assert not re.search(r"[/\\]", file["filename"])
        content = self.http.get(f"/v1/files/{file['id']}/content").content
        assert len(content) == file["bytes"]
        return content

    def files(self) -> list[Any]:
        return list(self.http.get("/v1/files").json()["data"])

    def blobs(self, prefix: str) -> set[str]:
        """Half-written ones, too."""
        root = Path(self.api.settings.blob_url.removeprefix("file://"))
        return {*self.api.blobs.list(prefix), *(p.name for p in (root / ".partial").iterdir())}


@pytest.fixture(scope="module")
def uploader(api: Api) -> Iterator[Uploader]:
    tenant = api.tenant()
    with httpx.Client(
        base_url=api.url,
        headers=tenant.headers,
        trust_env=False,
        timeout=TIMEOUT_S,
        # Before the server closes what is idle, so that none is used while it does so.
        limits=httpx.Limits(keepalive_expiry=1),
    ) as http:
        yield Uploader(api, tenant, http)


@settings(max_examples=2 * EXAMPLES, **OPTIONS)
@given(content=st.binary(max_size=200) | JSONL, cuts=st.integers(1, 3))
@example(content=b'{"a": "' + b"x" * 400_000 + b'"}\n' * 2, cuts=2)
@example(content=b'{"a": ' + b"[" * 400_000, cuts=1)
def test_a_training_file_is_kept_as_it_is_or_refused(
    uploader: Uploader, content: bytes, cuts: int
) -> None:
    body = form(part("purpose", b"fine-tune"), part("file", content, "rows.jsonl"))
    if b"\r\n--b" in b"\r\n" + content:
        return  # no client may choose a boundary that is in the file
    kept = uploader.upload(body, FITTING, cuts)
    if kept is None:
        return
    assert kept == content
    lines = [json.loads(line) for line in content.split(b"\n") if line.strip()]
    assert lines
    assert all(isinstance(line, dict) for line in lines)


@settings(max_examples=3 * EXAMPLES, **OPTIONS)
@given(body=BODIES | st.binary(max_size=60), content_type=CONTENT_TYPES, cuts=st.integers(1, 4))
def test_a_form_of_any_shape_becomes_a_file_or_nothing(
    uploader: Uploader, body: bytes, content_type: bytes, cuts: int
) -> None:
    kept = uploader.upload(body, content_type, cuts)
    assert kept is None or kept in body


@settings(max_examples=EXAMPLES, **OPTIONS)
@given(
    filename=FILENAMES.filter(lambda name: name is not None and name.count(b'"') == 2)
    | st.binary(max_size=30).map(lambda raw: b'"' + re.sub(rb'["\\\r\n]', b"", raw) + b'"'),
    content=st.binary(max_size=50).filter(lambda content: b"--b" not in content),
    header=st.sampled_from([b"", b"Content-Type: application/jsonl\r\n", b"x: \xff\r\n"]),
)
def test_what_comes_in_a_right_form_is_kept_whatever_it_is_called(
    uploader: Uploader, filename: bytes, content: bytes, header: bytes
) -> None:
    file = odd_part(b'"file"', filename, header, content, is_late=False)
    kept = uploader.upload(form(part("purpose", b"user_data"), file), FITTING)
    if kept is None:
        # No header has these, not even in quotes.
        assert re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", filename)
    else:
        assert kept == content


@pytest.fixture(scope="module")
def upload_id(uploader: Uploader) -> str:
    body = {"bytes": 1, "filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
    return str(uploader.http.post("/v1/uploads", json=body).json()["id"])


@settings(max_examples=2 * EXAMPLES, **OPTIONS)
@given(body=BODIES | st.binary(max_size=60), content_type=CONTENT_TYPES, cuts=st.integers(1, 4))
@example(body=form(part("data", b"some data", "blob")), content_type=FITTING, cuts=3)
def test_a_form_of_any_shape_becomes_a_part_or_nothing(
    uploader: Uploader, upload_id: str, body: bytes, content_type: bytes, cuts: int
) -> None:
    before = uploader.blobs(f"uploads/{upload_id}/")
    answer = uploader.post(f"/v1/uploads/{upload_id}/parts", body, content_type, cuts)
    new = uploader.blobs(f"uploads/{upload_id}/") - before
    if answer is None:
        assert new == set()
        return
    assert new == {f"uploads/{upload_id}/{answer['id']}"}
    with uploader.api.sessions() as session:
        row = session.get_one(UploadPartRow, answer["id"])
    chunks = uploader.api.blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256)
    assert b"".join(chunks) in body
