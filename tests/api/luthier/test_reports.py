"""Reports as they are asked for: by states of the job and of the report, as JSON and as a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import orjson
import pytest
from rich.console import Console
from sqlalchemy import update
from typer.testing import CliRunner

from api.report_page import page
from examples import demo
from luthier import Luthier
from luthier.cli import app
from luthier.reports import ReportNotReady
from storage.ids import new_id
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.reports import reports
from storage.reports.reports import ReportRow
from tests.api.fine_tuning.test_jobs import create
from tests.api.stack import Api, Tenant

EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(1)">'"&{{ 7 * 7 }}"""
Json = dict[str, Any]


def share(value: float, n: int = 12) -> Json:
    return {"value": value, "low": max(0, value - 0.1), "high": min(1, value + 0.1), "n": n}


def a_report(job_id: str, said: str = EVIL) -> Json:
    """As the errands make it, with `said` wherever a user or a model has a word."""
    names = {"zero_shot": 0.25, "tuned": 0.75}
    contenders = [
        {
            "name": name,
            "title": said,
            "model": "m",
            "primary": share(value),
            "also": {said: 0.5},
            "prompt_tokens": 30.0,
            "cached_tokens": 10.0,
            "output_tokens": 9.0,
            "seconds_p50": 0.25,
            "together": {said: said},
        }
        for name, value in names.items()
    ]
    contenders.append({**contenders[0], "name": "copy", "model": None})
    row = {"line": 3, "turn": 2, "asked": said, "wanted": said}
    row |= {"answers": dict.fromkeys(names, said), "scores": {"zero_shot": 0.0, "tuned": 1.0}}
    part = {"name": said, "tuned": 0.5, "other": 0.25, **share(0.25), "p": 0.5, "p_holm": 0.5}
    corners = {"gained": 1, "lost": 0, "both_right": 0, "neither": 0}
    effort = {"seconds_p50": 0.5, "seconds_p95": 0.75, "prompt_tokens": 30.0}
    effort |= {"uncached_tokens": 20.0, "output_tokens": 9.0}
    return {
        "object": "fine_tuning.job.report",
        "schema_version": 1,
        "id": "ftreport-1",
        "fine_tuning_job_id": job_id,
        "created_at": 1,
        "model": said,
        "base_model": "tiny-random",
        "depth": "auto",
        "seed": 1,
        "verdict": {"code": "helped", "sentence": said},
        "data": {
            **{"holdout": "file", "why_none": said, "holdout_rows": 12, "training_rows": 40},
            **{"task": {"type": "json", "share": 1.0}, "notes": [said]},
        },
        "prompts": {
            "rows": 16,
            "tried": [{"title": said, "score": 0.5, "prompt_tokens": 3.0, "instruction": said}],
        },
        "contenders": {
            **{"measure": said, "rows": 1, "of_rows": 12, "best_alternative": "zero_shot"},
            **{"contenders": contenders, "left_out": {said: said}, "notes": [said]},
            "answers": [row],
        },
        "changed": {
            **{"against": "zero_shot", "sees": 0.2, "counts": corners, "parts": [part]},
            "difference": {**share(0.5), "p": 0.01, "method": said},
            "rows": {"gained": [[3, 2]], "lost": [], "both_right": [], "neither": []},
        },
        "cost": {
            **{"prompted": said, "tuned": effort, "base": effort, "training_seconds": 60.0},
            **{
                "seconds_saved_per_request": 0.1,
                "break_even_requests": 600,
                "notes": [said],
                "price": None,
            },
        },
        "forgetting": {"skipped": said},
        "weights": {said: [said]},
        "costs": {"contenders": {"seconds": 3.0, "cost": said}},
    }


def ended(api: Api, tenant: Tenant, status: str = "succeeded", **values: Any) -> str:
    with api.client(tenant) as client:
        job = create(client)
    with api.sessions.begin() as session:
        session.execute(update(JobRow).where(JobRow.id == job.id).values(status=status, **values))
    return job.id


def asked_for(api: Api, tenant: Tenant, job_id: str) -> ReportRow:
    with api.sessions.begin() as session:
        return reports.create(
            session, project_id=tenant.project_id, job_id=job_id, depth="auto", asked={}
        )


def made(api: Api, tenant: Tenant, said: str = EVIL) -> str:
    """A job with a report."""
    job_id = ended(api, tenant)
    row = asked_for(api, tenant, job_id)
    with api.blobs.writer(f"reports/{row.id}/1-report.json") as writer:
        writer.write(orjson.dumps(a_report(job_id, said)))
        blob = writer.commit()
    values = {"blob_key": blob.key, "size_bytes": blob.size_bytes, "sha256": blob.sha256}
    with api.sessions.begin() as session:
        session.execute(
            update(ReportRow).where(ReportRow.id == row.id).values(status="succeeded", **values)
        )
    return job_id


def get(api: Api, tenant: Tenant, job_id: str, ending: str = "") -> httpx.Response:
    with api.http(tenant) as http:
        return http.get(f"/v1/luthier/fine_tuning/jobs/{job_id}/report{ending}")


def test_a_report_that_is_there_is_what_was_made(api: Api, tenant: Tenant) -> None:
    job_id = made(api, tenant)

    assert get(api, tenant, job_id).json() == a_report(job_id)
    assert get(api, api.tenant(), job_id).status_code == 404


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_shows_what_rows_and_models_say_and_runs_nothing_of_it(
    api: Api, tenant: Tenant
) -> None:
    reply = get(api, tenant, made(api, tenant), ".html")
    seen = _Seen()
    seen.feed(reply.text)

    assert reply.headers["content-type"].startswith("text/html")
    assert seen.tags.count("script") == seen.tags.count("style") == 1
    assert not {"img", "link", "iframe"} & set(seen.tags)
    assert not {name for name in seen.attributes if name.startswith("on") or name == "style"}
    assert sum(EVIL in text for text in seen.texts) > 15
    assert "49" not in "".join(seen.texts)
    # It fetches nothing, but names SVG.
    assert set(re.findall(r"https?://[^\"' ]+", reply.text)) == {"http://www.w3.org/2000/svg"}
    assert reply.headers["content-security-policy"] == page.POLICY
    assert page.POLICY.startswith("default-src 'none'; style-src 'sha256-")


def test_the_page_has_the_same_bytes_each_time() -> None:
    report = a_report("ftjob-1", "Hello")

    assert page.html(report) == page.html(report)
    pictures = re.findall(r"<svg.*?</svg>", page.html(a_report("ftjob-1")), re.DOTALL)
    assert len([ElementTree.fromstring(picture) for picture in pictures]) == 3
    long = page.html({**report, "weights": {"all": ["x" * 100] * 1000}})
    assert "report.json has all of it" in long
    assert len(long) < 60_000
    bare = {name: {"skipped": "no rows"} for name in ("prompts", "contenders", "changed", "cost")}
    assert "no rows" in page.html({**report, **bare})


def test_the_page_draws_where_the_change_is_and_how_much_of_it_is_needed() -> None:
    weights = [
        {"projection": name, "block": block, "shape": [4, 4], "relative_norm": 0.1 * block + 0.01}
        for name in ("q_proj", "v_proj")
        for block in range(3)
    ]
    curve = [{"strength": s, "dev": 2 - s, "kl": s * s} for s in (0.0, 0.5, 1.0)]
    report = {
        **a_report("ftjob-1", "Hello"),
        "forgetting": {"findings": [f"It is 0.2 nats away {EVIL}"]},
        "weights": {"weights": weights, "summary": {"sentence": "3 of 16 are used."}},
        "dial": {"strengths": curve, "chosen_on": {"rows": 6}, "recommended": None},
        "ablation": {"skipped": "no rows"},
    }
    content = page.html(report)
    pictures = [
        ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", content, re.DOTALL)
    ]
    assert len(pictures) == 5
    heat, dial = pictures[-2:]
    assert len(heat.findall("{*}rect")) == 6
    assert len(dial.findall("{*}circle")) == 6
    assert "3 of 16 are used." in content
    assert EVIL not in content
    assert "0.2 nats away" in content


@pytest.mark.parametrize("status", ["validating_files", "running", "paused", "succeeded"])
def test_until_it_is_there_it_says_how_far_it_is(api: Api, tenant: Tenant, status: str) -> None:
    job_id = ended(api, tenant, status)
    if status == "succeeded":
        asked_for(api, tenant, job_id)

    for ending in ("", ".html"):
        reply = get(api, tenant, job_id, ending)
        assert reply.status_code == 202
        assert reply.json() == {
            "object": "fine_tuning.job.report",
            "status": "in_progress",
            "fine_tuning_job_id": job_id,
            "job_status": status,
            "section": None,
            "num_answers": 0,
        }
    with (
        Luthier(base_url=f"{api.url}/v1", api_key=tenant.key, max_retries=0) as client,
        pytest.raises(ReportNotReady),
    ):
        client.reports.retrieve(job_id)


@pytest.mark.parametrize(
    ("status", "values", "told"),
    [
        ("cancelled", {}, "it was cancelled"),
        ("failed", {"error": {"code": "x", "message": "No rows", "param": None}}, "No rows"),
    ],
)
def test_a_job_without_a_model_has_no_report(
    api: Api, tenant: Tenant, status: str, values: Json, told: str
) -> None:
    job_id = ended(api, tenant, status, **values)

    with api.http(tenant) as http:
        replies = [
            get(api, tenant, job_id),
            http.post(f"/v1/luthier/fine_tuning/jobs/{job_id}/report", json={}),
        ]
    for reply in replies:
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_report")
        assert told in reply.json()["error"]["message"]


def test_one_that_was_not_wanted_can_be_made_later_and_a_failed_one_again(
    api: Api, tenant: Tenant
) -> None:
    job_id = ended(api, tenant)
    assert get(api, tenant, job_id).json()["error"]["code"] == "report_not_found"
    path = f"/v1/luthier/fine_tuning/jobs/{job_id}/report"
    with api.http(tenant) as http:
        assert http.post(path, json={"depth": "full"}).json()["status"] == "in_progress"
        with api.sessions.begin() as session:
            row = reports.find(session, tenant.project_id, job_id)
            assert row is not None
            assert row.depth == "full"
            row.status, row.error = "failed", {"code": "model_not_found", "message": "It is gone"}
        failed = get(api, tenant, job_id)
        assert (failed.status_code, failed.json()["error"]["code"]) == (400, "model_not_found")
        http.post(path, json={})
        assert get(api, tenant, job_id).status_code == 202


def test_a_report_that_is_deleted_leaves_nothing(api: Api, tenant: Tenant) -> None:
    job_id = made(api, tenant)
    with api.sessions() as session:
        row = reports.find(session, tenant.project_id, job_id)
    assert row is not None
    with Luthier(base_url=f"{api.url}/v1", api_key=tenant.key, max_retries=0) as client:
        client.reports.delete(job_id)

    assert list(api.blobs.list(f"reports/{row.id}/")) == []
    assert get(api, tenant, job_id).json()["error"]["code"] == "report_not_found"


def test_the_command_tells_the_verdict_first(api: Api, tenant: Tenant, tmp_path: Any) -> None:
    job_id = made(api, tenant, "Said")
    env = {"LUTHIER_BASE_URL": f"{api.url}/v1", "LUTHIER_API_KEY": tenant.key}

    shown = CliRunner().invoke(app, ["report", job_id], env=env)
    page_too = ["report", job_id, "--html", str(tmp_path / "x.html"), "--json"]
    written = CliRunner().invoke(app, page_too, env=env)

    assert shown.stdout.startswith("helped: Said\n")
    assert "1 rows better, 0 worse" in shown.stdout
    assert "75 %" in shown.stdout
    assert orjson.loads(written.stdout) == a_report(job_id, "Said")
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")


def test_the_demo_ends_with_the_verdict_and_where_the_report_is(
    api: Api, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "OUTPUT_DIR", tmp_path)
    monkeypatch.setattr(demo, "REPORT_TIMEOUT_S", 0.0)
    job_id, console = made(api, tenant, "Said"), Console(record=True, width=200)
    with api.client(tenant) as client:
        verdict = demo.tell_report(client, console, job_id)
        assert demo.tell_report(client, console, ended(api, tenant, "running")) is None

    told = console.export_text()
    assert verdict == {"code": "helped", "sentence": "Said"}
    assert told.startswith("helped: Said\n")
    assert f"{api.url}/v1/luthier/fine_tuning/jobs/{job_id}/report.html" in told
    assert "It will be at" in told
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"grader": {"type": "string_check"}}, "luthier.report.grader"),
        ({"target": 2}, "luthier.report"),
        ("sometimes", "luthier.report"),
    ],
)
def test_what_a_report_cannot_be_like_is_refused(
    api: Api, tenant: Tenant, asked: Any, param: str
) -> None:
    job_id = ended(api, tenant)
    with api.sessions() as session:
        file_id = jobs.get(session, tenant.project_id, job_id).training_file
    body = {"model": "tiny-random", "training_file": file_id}
    body["hyperparameters"] = {"luthier": {"report": asked}}  # type: ignore[assignment]
    with api.http(tenant) as http:
        reply = http.post("/v1/fine_tuning/jobs", json=body)
    assert reply.status_code == 400
    assert param in reply.json()["error"]["param"], reply.json()


def test_blobs_of_reports_are_known_while_they_are_made_and_then_but_one(
    api: Api, tenant: Tenant
) -> None:
    job_id = made(api, tenant)
    with api.sessions() as session:
        row = reports.find(session, tenant.project_id, job_id)
        assert row is not None
        keys = [f"reports/{row.id}/1-contenders-1", row.blob_key or "", f"reports/{new_id('x')}/1"]
        assert reports.known_keys(session, keys) == {row.blob_key}
