from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import func, select, update

from storage.organization import api_keys, sessions
from storage.organization.sessions import SessionRow
from tests.api.stack import Api, Tenant

SAME = {"sec-fetch-site": "same-origin"}
FOREIGN = [
    {},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "none"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "null"},
    # The browser's own word goes before an Origin that fits.
    {"sec-fetch-site": "cross-site", "origin": "OWN"},
]


@contextmanager
def sign_in(api: Api, tenant: Tenant) -> Iterator[httpx.Client]:
    """A browser after signing in."""
    with api.http() as http:
        reply = http.post("/v1/luthier/sessions", json={"api_key": tenant.key}, headers=SAME)
        assert reply.status_code == 200, reply.text
        yield http


def age(api: Api, column: str, seconds: int) -> None:
    """All sessions, in a database of the test's own project: others' tokens are looked up by hash only."""
    moved = getattr(SessionRow, column) - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    with api.sessions.begin() as session:
        session.execute(update(SessionRow).values({column: moved}))


def test_a_session_stands_for_its_key_and_no_script_can_read_it(api: Api, tenant: Tenant) -> None:
    with sign_in(api, tenant) as http:
        (cookie,) = http.cookies.jar
        assert cookie.name == f"luthier_{httpx.URL(api.url).port}"
        assert cookie.path == "/"
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "lax"
        assert not cookie.secure
        assert http.get("/v1/files").status_code == 200
        who = http.get("/v1/luthier/sessions/identity").json()
        assert who["kind"] == "project"
        assert who["project_id"] == tenant.project_id
        with api.sessions() as session:
            kept = session.scalars(select(SessionRow.sha256)).all()
        assert cookie.value not in kept
        assert api_keys.digest(cookie.value or "") in kept


def test_an_admin_key_signs_in_as_an_administrator(api: Api) -> None:
    with sign_in(api, Tenant("", api.admin_key())) as http:
        assert http.get("/v1/luthier/sessions/identity").json()["kind"] == "admin"
        assert http.get("/v1/organization/projects").status_code == 200
        assert http.get("/v1/files").status_code == 403


def test_over_tls_the_cookie_is_bound_to_this_host(api: Api, tenant: Tenant) -> None:
    with api.http() as http:
        headers = {**SAME, "x-forwarded-proto": "https"}
        reply = http.post("/v1/luthier/sessions", json={"api_key": tenant.key}, headers=headers)
    told = reply.headers["set-cookie"]
    assert told.startswith("__Host-luthier=")
    assert "; Secure" in told
    assert "Domain" not in told


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_foreign_page_can_change_nothing(
    api: Api, tenant: Tenant, headers: dict[str, str]
) -> None:
    headers = {name: value.replace("OWN", api.url) for name, value in headers.items()}
    with sign_in(api, tenant) as http:
        body = {"alias": "x", "model": "tiny-random"}
        refused = http.post("/v1/luthier/aliases", json=body, headers=headers)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "cross_origin"
        assert http.get("/v1/luthier/aliases").json()["data"] == []
        assert http.delete("/v1/luthier/sessions/current", headers=headers).status_code == 403
        signing = http.post("/v1/luthier/sessions", json={"api_key": tenant.key}, headers=headers)
        assert signing.status_code == 403
        assert "set-cookie" not in signing.headers


def test_where_the_browser_says_no_site_the_origin_must_be_this_host(
    api: Api, tenant: Tenant
) -> None:
    with sign_in(api, tenant) as http:
        body = {"alias": "x", "model": "tiny-random"}
        own = http.post("/v1/luthier/aliases", json=body, headers={"origin": api.url})
        assert own.status_code == 200


def test_a_key_in_the_header_goes_before_a_cookie_and_needs_no_origin(
    api: Api, tenant: Tenant
) -> None:
    other = api.tenant()
    with sign_in(api, tenant) as http:
        body = {"alias": "y", "model": "tiny-random"}
        assert http.post("/v1/luthier/aliases", json=body, headers=other.headers).status_code == 200
        assert http.get("/v1/luthier/aliases").json()["data"] == []
        wrong = http.get("/v1/files", headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401


def test_a_session_ends_when_it_is_told_to_and_with_its_key(api: Api, tenant: Tenant) -> None:
    with sign_in(api, tenant) as first, sign_in(api, tenant) as second:
        listed = second.get("/v1/luthier/sessions").json()["data"]
        assert len(listed) == 2
        ended = first.delete("/v1/luthier/sessions/current", headers=SAME)
        assert ended.json()["id"] in {session["id"] for session in listed}
        assert not first.cookies
        (left,) = second.get("/v1/luthier/sessions").json()["data"]
        with sign_in(api, api.tenant()) as stranger:
            url = f"/v1/luthier/sessions/{left['id']}"
            assert stranger.delete(url, headers=SAME).status_code == 404
        with api.http(tenant) as by_key:
            assert by_key.delete(url).json()["ended"] is True
        over = second.get("/v1/files")
        assert over.status_code == 401
        assert over.json()["error"]["code"] == "session_over"


@pytest.mark.parametrize(
    ("column", "seconds"),
    [("last_used_at", sessions.IDLE_S), ("expires_at", sessions.MAX_AGE_S)],
)
def test_a_session_ends_by_itself(api: Api, tenant: Tenant, column: str, seconds: int) -> None:
    with sign_in(api, tenant) as http:
        age(api, column, seconds - 60)
        assert http.get("/v1/files").status_code == 200
        age(api, column, seconds + 60)
        assert http.get("/v1/files").status_code == 401


def test_the_least_used_sessions_of_a_key_make_room(
    api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS_PER_KEY", 2)
    with sign_in(api, tenant) as first, sign_in(api, tenant) as second, sign_in(api, tenant):
        assert first.get("/v1/files").status_code == 401
        assert second.get("/v1/files").status_code == 200


@pytest.mark.parametrize("body", [{}, {"api_key": ""}, {"api_key": 1}, {"api_key": "x" * 513}])
def test_what_is_no_key_is_told(api: Api, body: object) -> None:
    with api.http() as http:
        reply = http.post("/v1/luthier/sessions", json=body, headers=SAME)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "api_key"
        unknown = http.post("/v1/luthier/sessions", json={"api_key": "sk-x"}, headers=SAME)
        assert unknown.status_code == 401


def test_the_internal_key_is_nobody_s_to_sign_in_with(settings: object, api: Api) -> None:
    with api.http() as http:
        key = api.settings.internal_key or "none"
        headers = {**SAME, "x-luthier-project": api.tenant().project_id}
        reply = http.post("/v1/luthier/sessions", json={"api_key": key}, headers=headers)
    assert reply.status_code == 401
