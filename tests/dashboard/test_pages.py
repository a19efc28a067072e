"""The page without a browser: what it sends, to whom, and what it follows."""

from __future__ import annotations

import httpx
import pytest

from dashboard import files, viewing
from tests.api.stack import Api, Tenant
from tests.dashboard import believable

SAME = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def http(api: Api, tenant: Tenant) -> httpx.Client:
    with api.http() as client:
        reply = client.post("/v1/luthier/sessions", json={"api_key": tenant.key}, headers=SAME)
        assert reply.status_code == 200
        cookies = dict(client.cookies)
    return httpx.Client(base_url=api.url, cookies=cookies, timeout=60, trust_env=False)


def test_each_page_has_the_policy_and_is_kept_by_nobody(http: httpx.Client) -> None:
    with http:
        for path in ("jobs", f"jobs/{believable.DONE}", "sign-in", "jobs/ftjob-none"):
            reply = http.get(f"/dashboard/{path}")
            assert reply.headers["content-security-policy"].startswith("default-src 'none'")
            assert "unsafe" not in reply.headers["content-security-policy"]
            assert reply.headers["x-frame-options"] == "DENY"
            assert reply.headers["cache-control"] == "no-store"


def test_what_never_changes_is_kept_and_nothing_else_is_served(http: httpx.Client) -> None:
    with http:
        current = http.get(f"/dashboard/static/{files.DIGEST}/page.js")
        assert "immutable" in current.headers["cache-control"]
        assert http.get("/dashboard/static/old/page.js").headers["cache-control"] == "no-store"
        for name in ("..%2Fviews.py", "%2e%2e%2fviews.py", "views.py", "page.js%00"):
            assert http.get(f"/dashboard/static/{files.DIGEST}/{name}").status_code == 404


def test_all_script_together_is_small() -> None:
    assert sum(file.stat().st_size for file in files.STATIC.glob("*.js")) <= 40_000


def test_a_foreign_page_s_form_does_nothing(http: httpx.Client, api: Api, tenant: Tenant) -> None:
    with http:
        for headers in ({}, {"sec-fetch-site": "cross-site"}, {"origin": "http://evil.invalid"}):
            url = f"/dashboard/jobs/{believable.RUNNING}/cancel"
            assert http.post(url, headers=headers).status_code == 403
            assert http.post("/dashboard/sign-out", headers=headers).status_code == 403
    with api.client(tenant) as client:
        assert client.fine_tuning.jobs.retrieve(believable.RUNNING).status == "running"


def test_another_project_s_job_is_nobody_s(api: Api, tenant: Tenant) -> None:
    other = api.tenant()
    with api.http() as http:
        http.post("/v1/luthier/sessions", json={"api_key": other.key}, headers=SAME)
        reply = http.get(f"/dashboard/jobs/{believable.DONE}")
    assert reply.status_code == 404
    assert "support mails" not in reply.text


def test_links_are_relative_so_the_page_works_behind_any_prefix(http: httpx.Client) -> None:
    with http:
        for path in ("jobs", f"jobs/{believable.DONE}", "models"):
            text = http.get(f"/dashboard/{path}").text
            for attribute in ('href="/', 'src="/', 'action="/'):
                assert attribute not in text
        redirect = http.get("/dashboard", follow_redirects=False)
        assert not redirect.headers["location"].startswith("/")


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.invalid/", "//evil.invalid", "/\\evil.invalid", "javascript:1", "../../x", "/x"],
)
def test_signing_in_leads_to_no_other_place(wanted: str) -> None:
    assert viewing.safe_next(wanted) == "jobs"
    assert viewing.safe_next("jobs/ftjob-1") == "jobs/ftjob-1"


def test_clients_that_leave_out_v1_get_json_as_before(api: Api, tenant: Tenant) -> None:
    with api.http(tenant) as http:
        assert http.get("/models").headers["content-type"] == "application/json"
        assert http.get("/").status_code == 404
        browser = http.get("/", headers={"accept": "text/html,*/*;q=0.8"})
        assert browser.status_code == 303
        assert browser.headers["location"].endswith("dashboard/jobs")
