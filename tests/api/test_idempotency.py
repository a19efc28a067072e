"""A POST that is sent twice under one Idempotency-Key creates one thing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest
from sqlalchemy import func, select, update

from api import idempotency
from storage import idempotency_keys
from storage.idempotency_keys import IdempotencyKeyRow
from tests.api.stack import Api, Tenant, wait_until
from tests.factories import colour_rows, jsonl

UPLOAD = {"filename": "a.jsonl", "purpose": "user_data", "bytes": 5, "mime_type": "text/plain"}


def keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def error_of(reply: httpx.Response) -> dict[str, str | None]:
    error: dict[str, str | None] = reply.json()["error"]
    return error


def test_repetition_gets_the_first_reply_and_creates_nothing(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    first, second = (http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")) for _ in range(2))
    assert first.status_code == second.status_code == 200
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    other = http.post("/v1/uploads", json=UPLOAD, headers=keyed("another"))
    assert other.json()["id"] != first.json()["id"]


def test_job_is_created_once_by_the_openai_client(client: openai.OpenAI) -> None:
    file = client.files.create(file=("t.jsonl", jsonl(colour_rows(10))), purpose="fine-tune")
    jobs = [
        client.fine_tuning.jobs.create(
            model="tiny-random", training_file=file.id, extra_headers=keyed("job")
        )
        for _ in range(3)
    ]
    assert len({job.id for job in jobs}) == 1
    assert [job.id for job in client.fine_tuning.jobs.list()] == [jobs[0].id]


def test_form_that_is_sent_again_is_the_same_whatever_its_boundary(client: openai.OpenAI) -> None:
    files = [
        client.files.create(
            file=("t.jsonl", jsonl(colour_rows(10))),
            purpose="fine-tune",
            extra_headers=keyed("file"),
        )
        for _ in range(2)
    ]
    assert files[0] == files[1]
    assert len(client.files.list().data) == 1
    with pytest.raises(openai.BadRequestError, match="used for another request") as caught:
        client.files.create(
            file=("t.jsonl", jsonl(colour_rows(11))),
            purpose="fine-tune",
            extra_headers=keyed("file"),
        )
    assert caught.value.code == "idempotency_key_reused"


@pytest.mark.parametrize("change", [{"bytes": 6}, {"filename": "b" * 200}, {"filename": "b"}])
def test_key_of_another_request_is_refused(http: httpx.Client, change: dict[str, object]) -> None:
    http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).raise_for_status()
    reply = http.post("/v1/uploads", json=UPLOAD | change, headers=keyed("k"))
    assert reply.status_code == 400
    assert error_of(reply)["code"] == "idempotency_key_reused"


def test_key_of_another_route_is_refused(http: httpx.Client) -> None:
    upload = http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).json()
    reply = http.post(f"/v1/uploads/{upload['id']}/cancel", headers=keyed("k"))
    assert error_of(reply)["code"] == "idempotency_key_reused"
    assert http.get("/v1/files").status_code == 200


def test_request_that_failed_leaves_the_key_free(http: httpx.Client) -> None:
    bad = http.post("/v1/uploads", json=UPLOAD | {"bytes": -1}, headers=keyed("k"))
    assert bad.status_code == 400
    good = http.post("/v1/uploads", json=UPLOAD, headers=keyed("k"))
    assert good.status_code == 200
    assert "idempotent-replayed" not in good.headers


def test_keys_of_other_callers_are_theirs(api: Api, http: httpx.Client) -> None:
    first = http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).json()
    with api.http(api.tenant()) as another:
        other = another.post("/v1/uploads", json=UPLOAD, headers=keyed("k"))
    assert other.status_code == 200
    assert other.json()["id"] != first["id"]


def test_wrong_key_of_the_api_learns_nothing(api: Api, http: httpx.Client) -> None:
    http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).raise_for_status()
    with api.http(Tenant("", "wrong")) as stranger:
        reply = stranger.post("/v1/uploads", json=UPLOAD, headers=keyed("k"))
    assert reply.status_code == 401


def test_overlong_key_is_refused(http: httpx.Client) -> None:
    for key in ("", "k" * 256):
        reply = http.post("/v1/uploads", json=UPLOAD, headers=keyed(key))
        assert reply.status_code == 400
        assert error_of(reply)["param"] == "idempotency-key"


def test_repetition_while_the_first_is_at_work_is_told_to_come_again(
    api: Api, tenant: Tenant, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "RENEWAL_S", 0.01)
    may_end = threading.Event()
    body = json.dumps(UPLOAD).encode()

    def slowly() -> Iterator[bytes]:
        yield body[:5]
        may_end.wait(20)
        yield body[5:]

    def send_slowly() -> httpx.Response:
        with api.http(tenant) as first:
            return first.post("/v1/uploads", content=slowly(), headers=keyed("k"))

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send_slowly)
        wait_until(lambda: _row(api, tenant) is not None)
        # A claim lasts a minute; it is renewed for as long as the request is at work.
        with api.sessions.begin() as session:
            session.execute(update(IdempotencyKeyRow).values(claimed_until=func.clock_timestamp()))
        wait_until(lambda: _is_claimed(api, tenant))
        second = http.post("/v1/uploads", content=body, headers=keyed("k"))
        may_end.set()
    assert second.status_code == 409
    assert error_of(second)["code"] == "idempotency_key_in_use"
    third = http.post("/v1/uploads", content=body, headers=keyed("k"))
    assert third.json() == first.result().json()


def test_secret_is_shown_to_the_first_request_only(api: Api) -> None:
    with api.http(Tenant("", api.admin_key())) as http:
        url = "/v1/organization/projects"
        project = http.post(url, json={"name": "p"}, headers=keyed("p")).json()
        url = f"{url}/{project['id']}/service_accounts"
        first, second = (http.post(url, json={"name": "a"}, headers=keyed("a")) for _ in range(2))
        assert len(http.get(url).json()["data"]) == 1
    secret = first.json()["api_key"]["value"]
    assert second.status_code == 400
    assert "shown once" in str(error_of(second)["message"])
    with api.sessions() as session:
        kept = session.scalars(select(IdempotencyKeyRow.body)).all()
    assert not any(secret in (body or b"").decode() for body in kept)


def test_reply_is_kept_for_a_day(api: Api, tenant: Tenant, http: httpx.Client) -> None:
    def make_old() -> None:
        with api.sessions.begin() as session:
            old = IdempotencyKeyRow.created_at - timedelta(hours=24, minutes=1)
            session.execute(update(IdempotencyKeyRow).values(created_at=old))

    first = http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).json()
    make_old()
    again = http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).json()
    assert again["id"] != first["id"]
    make_old()
    with api.sessions.begin() as session:
        idempotency_keys.remove_expired(session)
    assert _row(api, tenant) is None


def test_late_renewal_does_not_take_a_kept_reply_back(
    api: Api, tenant: Tenant, http: httpx.Client
) -> None:
    http.post("/v1/uploads", json=UPLOAD, headers=keyed("k")).raise_for_status()
    row = _row(api, tenant)
    assert row is not None
    owner = idempotency_keys.Owner(tenant.project_id, row.api_key_id, "k")
    with api.sessions.begin() as session:
        idempotency_keys.renew(session, owner, row.claim)
    again = http.post("/v1/uploads", json=UPLOAD, headers=keyed("k"))
    assert again.headers["idempotent-replayed"] == "true"


def _row(api: Api, tenant: Tenant) -> IdempotencyKeyRow | None:
    with api.sessions() as session:
        return session.scalar(
            select(IdempotencyKeyRow).where(IdempotencyKeyRow.project_id == tenant.project_id)
        )


def _is_claimed(api: Api, tenant: Tenant) -> bool:
    row = _row(api, tenant)
    assert row is not None
    assert row.claimed_until is not None
    return row.claimed_until > datetime.now(UTC) + timedelta(seconds=30)
