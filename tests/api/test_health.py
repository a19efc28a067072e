from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from api import health
from storage.schema import OtherSchema
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.stack import Api, Tenant, running, running_api

NOWHERE = "http://127.0.0.1:1"
"""Nothing listens there: the port is the system's."""


def test_all_is_ready_when_everything_answers(api: Api) -> None:
    with running(FakeBackend().app()) as url:
        settings = api.settings.replace(backends={"tiny-random": (NOWHERE, url)})
        with running_api(settings) as front, front.http() as http:
            assert http.get("/healthz").json() == {"status": "ok"}
            reply = http.get("/readyz")
    assert reply.json() == {
        "status": "ready",
        "checks": {
            "database": "ok",
            "broker": "ok",
            "blobs": "ok",
            "inference of tiny-random": "ok",
        },
    }
    assert reply.status_code == 200


def test_what_is_down_is_named_without_its_address(api: Api) -> None:
    for changed, name in (
        ({"backends": {"tiny-random": (NOWHERE,)}}, "inference of tiny-random"),
        ({"database_url": f"postgresql://x@{NOWHERE[7:]}/x"}, "database"),
    ):
        with running_api(api.settings.replace(**changed)) as front, front.http() as http:
            reply = http.get("/readyz", timeout=10)
            assert http.get("/healthz").status_code == 200
        assert reply.status_code == 503
        checks = reply.json()["checks"]
        assert {key for key, finding in checks.items() if finding != "ok"} == {name}
        assert "127.0.0.1" not in reply.text


def test_metrics_count_requests_by_route_and_jobs_by_status(api: Api, tenant: Tenant) -> None:
    with running_api(api.settings) as front, front.http(tenant) as http:
        http.get("/v1/files/file-1")
        http.get("/v1/files/file-2")
        http.get("/no/such/route")
        reply = http.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    lines = reply.text.splitlines()
    requests = 'luthier_http_requests_total{method="GET",route="%s",status="404"} %s'
    assert requests % ("/v1/files/{file_id}", "2.0") in lines
    assert requests % ("unmatched", "1.0") in lines
    assert any(line.startswith('luthier_jobs{status="running"}') for line in lines)
    assert "file-1" not in reply.text


def test_metrics_go_on_where_the_database_is_of_another_schema(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count_jobs(_: Session) -> None:
        raise OtherSchema("9999")

    monkeypatch.setattr(health, "count_jobs", count_jobs)
    with running_api(api.settings) as front, front.http() as http:
        reply = http.get("/metrics")
    assert reply.status_code == 200
    assert "luthier_http_requests_total" in reply.text


def test_an_outage_of_the_database_is_503_and_worth_another_try(api: Api, tenant: Tenant) -> None:
    settings = api.settings.replace(database_url=f"postgresql://x@{NOWHERE[7:]}/x")
    with running_api(settings) as front, front.http(tenant) as http:
        reply = http.get("/v1/models", timeout=10)
        assert reply.status_code == 503
        assert int(reply.headers["retry-after"]) > 0
        assert "cannot reach its database" in reply.json()["error"]["message"]
        assert "127.0.0.1" not in reply.text
        assert http.get("/metrics").status_code == 200
