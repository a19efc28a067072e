from __future__ import annotations

import threading
import time

import httpx
import pytest
from sqlalchemy import func, text, update

from api.files import form_file
from foundation.settings import Settings
from storage.organization import api_keys
from storage.organization.api_keys import ApiKeyRow
from storage.organization.projects import ProjectRow
from tests.api.stack import Api, Tenant, running_api


def set_key(api: Api, tenant: Tenant, **values: object) -> None:
    with api.sessions.begin() as session:
        session.execute(
            update(ApiKeyRow)
            .where(ApiKeyRow.sha256 == api_keys.digest(tenant.key))
            .values(**values)
        )


def test_no_key_and_other_schemes_are_told_how_to_send_one(api: Api) -> None:
    with api.http() as http:
        for headers in ({}, {"authorization": "Basic abc"}, {"authorization": "Bearer"}):
            reply = http.get("/v1/models", headers=headers)
            assert reply.status_code == 401
            assert reply.json()["error"]["message"].startswith("You didn't provide an API key.")
            assert reply.json()["error"]["type"] == "invalid_request_error"
            assert reply.headers["www-authenticate"] == "Bearer"


def test_a_wrong_key_is_refused_and_not_repeated_in_full(api: Api) -> None:
    key = "sk-proj-wrong-and-rather-long-abcd"
    with api.http(Tenant("", key)) as http:
        error = http.get("/v1/models").json()["error"]
    assert error["code"] == "invalid_api_key"
    assert error["message"].startswith("Incorrect API key provided: sk-***abcd.")
    assert key not in error["message"]


@pytest.mark.parametrize("key", ["My API Key", "clé d'accès"])
def test_a_key_may_hold_spaces_and_any_character(api: Api, key: str) -> None:
    tenant = api.tenant()
    set_key(api, tenant, sha256=api_keys.digest(key + tenant.project_id))
    header = f"Bearer {key}{tenant.project_id}".encode()
    with api.http() as http:
        assert http.get("/v1/models", headers={b"authorization": header}).status_code == 200
        header = header.replace(b"Bearer", b"bearer")
        assert http.get("/v1/models", headers={b"authorization": header}).status_code == 200


def test_a_revoked_or_expired_key_stops_working_at_once(api: Api) -> None:
    for column in ("revoked_at", "expires_at"):
        tenant = api.tenant()
        with api.http(tenant) as http:
            assert http.get("/v1/models").status_code == 200
            set_key(api, tenant, **{column: func.now()})
            assert http.get("/v1/models").status_code == 401


def test_an_admin_key_reaches_no_project(api: Api) -> None:
    with api.http(Tenant("", api.admin_key())) as http:
        reply = http.get("/v1/files")
    assert reply.status_code == 403
    assert "admin key" in reply.json()["error"]["message"]


def test_who_asks_is_known_before_the_body_is_read(api: Api) -> None:
    with api.http() as http:
        reply = http.post("/v1/fine_tuning/jobs", content=b"{broken")
        assert reply.status_code == 401
        reply = http.post("/v1/chat/completions", content=b"{broken")
        assert reply.status_code == 401


def test_an_upload_holds_no_transaction_while_it_is_sent(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form_file, "WRITE_BYTES", 1024)
    go_on = threading.Event()
    open_transactions = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND state LIKE 'idle in transaction%'"
    )

    def body() -> object:
        yield b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield b"x" * 100_000
        assert go_on.wait(10)
        yield b"\r\n--b--\r\n"

    replies: list[httpx.Response] = []

    def send() -> None:
        with api.http(tenant) as http:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            replies.append(http.post("/v1/files", content=body(), headers=headers))  # type: ignore[arg-type]

    thread = threading.Thread(target=send)
    thread.start()
    partial = api.blobs.root / ".partial"  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while not list(partial.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with api.sessions.begin() as session:
        assert session.scalar(open_transactions) == 0
    go_on.set()
    thread.join()
    assert replies[0].status_code == 200


def test_the_internal_key_acts_for_the_project_that_the_header_names(settings: Settings) -> None:
    key = "between the processes"
    with running_api(settings.replace(internal_key=key)) as api:
        tenant = api.tenant()
        file = api.client(tenant).files.create(file=b"x", purpose="user_data")

        def status(bearer: str, project_id: str | None) -> int:
            headers = {} if project_id is None else {"x-luthier-project": project_id}
            with api.http(Tenant("", bearer)) as http:
                return http.get(f"/v1/files/{file.id}", headers=headers).status_code

        assert status(key, tenant.project_id) == 200
        assert status(key, api.tenant().project_id) == 404
        assert status(key, None) == status(key, "proj_unknown") == 401
        assert status("another key", tenant.project_id) == 401
        # A project's own key stays its own, whatever the header says.
        assert status(tenant.key, api.tenant().project_id) == 200
        with api.sessions.begin() as session:
            mine = ProjectRow.id == tenant.project_id
            session.execute(update(ProjectRow).where(mine).values(archived_at=func.now()))
        assert status(key, tenant.project_id) == 401


def test_without_an_internal_key_nobody_is_internal(api: Api, tenant: Tenant) -> None:
    assert api.settings.internal_key == ""
    headers = {"authorization": "Bearer internal", "x-luthier-project": tenant.project_id}
    with api.http() as http:
        assert http.get("/v1/files", headers=headers).status_code == 401
