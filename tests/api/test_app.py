from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.api.stack import Api, Tenant, wait_until


def test_importing_the_app_loads_no_model_library_and_no_worker() -> None:
    script = (
        "import sys, api.app\n"
        "heavy = {'torch', 'transformers', 'worker', 'errands', 'training', 'serving', 'modeling'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_urls_and_methods_answer_in_openai_s_words(api: Api, tenant: Tenant) -> None:
    with api.http(tenant) as http:
        reply = http.get("/v1/nothing?secret=1")
        assert reply.status_code == 404
        assert reply.json()["error"] == {
            "message": "Invalid URL (GET /v1/nothing)",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        reply = http.put("/v1/files")
        assert reply.status_code == 405
        assert reply.json()["error"]["message"] == "Not allowed to PUT on /v1/files."
        assert set(reply.headers["allow"].split(", ")) <= {"GET", "POST"}


def test_every_reply_carries_an_id_of_its_own(api: Api, tenant: Tenant) -> None:
    with api.http(tenant) as http:
        replies = [http.get("/v1/models"), http.get("/nowhere"), http.get("/v1/files/x")]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == 3
    for reply in replies:
        assert len(reply.headers["x-request-id"]) == len("req_") + 32
        assert reply.headers["openai-version"] == "2020-10-01"
        assert int(reply.headers["openai-processing-ms"]) >= 0
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["access-control-expose-headers"] == "X-Request-ID"
        # Nothing is limited here, and clients would slow down by numbers that mean nothing.
        assert not [name for name in reply.headers if name.startswith("x-ratelimit-")]
    assert replies[0].headers["openai-project"] == tenant.project_id
    assert replies[0].headers["openai-organization"] == "acme"


def test_a_crash_tells_nothing_of_the_inside(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr("storage.models.models.all", crash)
    with api.http(tenant) as http:
        reply = http.get("/v1/models")
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.json()["error"]["type"] == "server_error"
    assert reply.json()["error"]["message"].startswith("The server had an error")
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/v1/files/a%00b", "/v1/models/a%00b", "/v1/files?purpose=%00"])
def test_what_postgres_cannot_store_is_the_caller_s_fault(
    api: Api, tenant: Tenant, path: str
) -> None:
    with api.http(tenant) as http:
        reply = http.get(path)
    assert reply.status_code == 400
    assert "NUL" in reply.json()["error"]["message"]


def test_the_log_knows_the_request_and_no_secret(
    api: Api, tenant: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with api.http(tenant) as http:
        reply = http.get("/v1/files?purpose=sensitive")
    # The line is written once the reply has gone out.
    wait_until(lambda: '"route": "/v1/files"' in caplog.text)
    logged = "".join(r.getMessage() for r in caplog.records if r.name == "api.request_id")
    assert reply.headers["x-request-id"] in logged
    assert tenant.project_id in logged
    assert tenant.key not in logged
    assert "sensitive" not in logged


def test_the_document_describes_every_body_and_no_422(api: Api) -> None:
    with api.http() as http:
        document: dict[str, Any] = http.get("/openapi.json").json()
        assert http.get("/docs").status_code == 404
    text = json.dumps(document)
    assert '"422"' not in text
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    create = document["paths"]["/v1/fine_tuning/jobs"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "CreateFineTuningJob"
    )
    assert create["security"] == [{"ApiKey": []}]
