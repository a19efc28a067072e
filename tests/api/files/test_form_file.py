from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from api.files import files, form_file
from foundation.connection_limits import ConnectionLimits
from foundation.settings import Settings
from tests.api.stack import Api, Tenant, running_api, wait_until

from .test_multipart import CONTENT_TYPE, form, part


def post(api: Api, tenant: Tenant, body: bytes | Iterable[bytes], **headers: str) -> httpx.Response:
    with api.http(tenant) as http:
        return http.post(
            "/v1/files", content=body, headers={"content-type": CONTENT_TYPE, **headers}
        )


def error(reply: httpx.Response) -> tuple[int, str, str | None]:
    body = reply.json()["error"]
    return reply.status_code, body["message"], body["param"]


def leftovers(api: Api, tenant: Tenant) -> list[Path]:
    root = Path(api.settings.blob_url.removeprefix("file://"))
    mine = root / "files" / tenant.project_id
    return [*(root / ".partial").iterdir(), *(mine.iterdir() if mine.exists() else ())]


PURPOSE = part("purpose", b"fine-tune")
FILE = part("file", b'{"a": 1}\n', "a.jsonl")


@pytest.mark.parametrize("parts", [(PURPOSE, FILE), (FILE, PURPOSE)])
def test_the_order_of_the_fields_does_not_matter(
    api: Api, tenant: Tenant, parts: tuple[bytes, ...]
) -> None:
    assert post(api, tenant, form(*parts)).status_code == 200
    bad = [p.replace(b'{"a": 1}', b"[]") for p in parts]
    status, message, _ = error(post(api, tenant, form(*bad)))
    assert status == 400
    assert "Line 1 is not" in message


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (form(FILE), "Missing required parameter: 'purpose'.", "purpose"),
        (form(PURPOSE), "Missing required parameter: 'file'.", "file"),
        (
            form(part("purpose", b"world_domination"), FILE),
            "'world_domination' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', "
            "'vision', 'evals'] - 'purpose'",
            "purpose",
        ),
        (form(PURPOSE, FILE, FILE), "Only one file may be uploaded at a time.", "file"),
        (
            form(PURPOSE, FILE, part("expires_after[anchor]", b"created_at")),
            "Invalid 'expires_after.seconds': expected an integer between 3600 and 2592000, but got "
            "None instead.",
            "expires_after.seconds",
        ),
        (
            form(PURPOSE, FILE, part("expires_after[seconds]", b"3600")),
            "None is not one of ['created_at'] - 'expires_after.anchor'",
            "expires_after.anchor",
        ),
        (
            form(
                PURPOSE,
                FILE,
                part("expires_after[anchor]", b"created_at"),
                part("expires_after[seconds]", "³600".encode()),
            ),
            "Invalid 'expires_after.seconds': expected an integer between 3600 and 2592000, but got "
            "'³600' instead.",
            "expires_after.seconds",
        ),
        (PURPOSE + FILE, "Could not parse multipart form: the body ends before its end.", None),
    ],
)
def test_what_is_wrong_with_a_form_is_named_and_nothing_stays(
    api: Api, tenant: Tenant, body: bytes, message: str, param: str | None
) -> None:
    assert error(post(api, tenant, body)) == (400, message, param)
    assert leftovers(api, tenant) == []


def test_a_form_that_is_none_is_400(api: Api, tenant: Tenant) -> None:
    with api.http(tenant) as http:
        status, message, _ = error(http.post("/v1/files", json={"file": "x"}))
    assert status == 400
    assert "must be multipart/form-data" in message


def endless_file() -> Iterator[bytes]:
    yield part("purpose", b"user_data")
    yield part("file", b"")[:-2]
    while True:
        yield b"x" * 65536


def test_a_file_too_large_is_refused_while_it_is_sent(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1_000_000)
    monkeypatch.setattr(form_file, "FORM_BYTES", 10_000)
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for chunk in endless_file():
            sent += len(chunk)
            if sent > 20_000_000:
                return  # the server drains what comes after its answer
            yield chunk

    status, message, param = error(post(api, tenant, counted()))
    assert (status, param) == (413, "file")
    assert message.startswith("Maximum content size limit (1000000) exceeded")
    assert leftovers(api, tenant) == []


def test_a_length_too_large_is_refused_before_anything_is_sent(api: Api, tenant: Tenant) -> None:
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as peer:
        peer.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
            + f"authorization: Bearer {tenant.key}\r\ncontent-length: 999999999999\r\n\r\n".encode()
        )
        assert peer.recv(100).startswith(b"HTTP/1.1 413")


def test_a_client_that_goes_away_leaves_nothing(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form_file, "WRITE_BYTES", 1000)
    address = urlsplit(api.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as peer:
        peer.sendall(
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
            + f"authorization: Bearer {tenant.key}\r\ncontent-length: 100000\r\n\r\n".encode()
            + part("purpose", b"user_data")
            + part("file", b"x" * 50_000)[:-2]
        )
        wait_until(lambda: leftovers(api, tenant))
    wait_until(lambda: not leftovers(api, tenant))


def test_a_client_that_sends_nothing_is_let_go(settings: Settings) -> None:
    limits = ConnectionLimits(body_window_s=0.1, sweep_s=0.02)
    with running_api(settings, limits) as own:
        tenant = own.tenant()
        address = urlsplit(own.url)
        with socket.create_connection((address.hostname or "", address.port or 0), 5) as peer:
            peer.sendall(
                b"POST /v1/files HTTP/1.1\r\nhost: x\r\n"
                + f"content-type: {CONTENT_TYPE}\r\ncontent-length: 100000\r\n".encode()
                + f"authorization: Bearer {tenant.key}\r\n\r\n".encode()
                + part("purpose", b"user_data")
            )
            assert peer.recv(1000).startswith(b"HTTP/1.1 408")
        wait_until(lambda: not leftovers(own, tenant))
