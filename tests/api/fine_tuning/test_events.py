from __future__ import annotations

from typing import Any

import httpx
import openai

from storage.jobs import events
from tests.api.stack import Api, Tenant

from .test_jobs import create


def test_events_are_newest_first_and_page(api: Api, client: openai.OpenAI) -> None:
    job = create(client)
    data = {"step": 1, "train_loss": 1.5}
    with api.sessions.begin() as session:
        for step in range(1, 6):
            events.add(session, job.id, f"step:{step}", f"Step {step}", type="metrics", data=data)
        events.add(session, job.id, "started", "Fine-tuning job started", data=None)
    found = list(client.fine_tuning.jobs.list_events(job.id, limit=4))
    assert [e.message for e in found] == [
        "Fine-tuning job started",
        *(f"Step {step}" for step in range(5, 0, -1)),
        f"Created fine-tuning job: {job.id}",
    ]
    newest: Any = found[1]
    assert (newest.object, newest.type, newest.level) == (
        "fine_tuning.job.event",
        "metrics",
        "info",
    )
    assert newest.data == data
    assert found[0].data is None
    page = client.fine_tuning.jobs.list_events(job.id, limit=2)
    assert page.has_more
    assert client.fine_tuning.jobs.list_events(job.id, limit=0).data == []
    assert client.fine_tuning.jobs.list_events(job.id, after="ftevent-unknown").data == []


def test_an_event_of_another_job_is_no_cursor(client: openai.OpenAI) -> None:
    first, second = create(client), create(client)
    (event,) = client.fine_tuning.jobs.list_events(first.id).data
    assert client.fine_tuning.jobs.list_events(second.id, after=event.id).data == []


def test_plain_polls_and_others_get_the_same_answers(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    """A plain query is read by hand, any other one by FastAPI."""
    job = create(client)
    with api.sessions.begin() as session:
        for step in range(1, 6):
            events.add(session, job.id, f"step:{step}", f"Step {step}", data={})
    newest = client.fine_tuning.jobs.list_events(job.id).data[0].id
    with api.http(tenant) as http:

        def poll(query: str) -> httpx.Response:
            return http.get(f"/v1/fine_tuning/jobs/{job.id}/events?{query}")

        for plain, other in (
            ("", "stream=false"),
            ("limit=2", "limit=2&stream=false"),
            (f"after={newest}&limit=3", f"limit=3&after={newest}"),
            (f"after={newest}", f"after={newest}&unknown=1"),
            ("limit=0", "limit=+0"),
        ):
            assert poll(plain).status_code == 200
            assert poll(plain).content == poll(other).content
        assert [e["message"] for e in poll("limit=2").json()["data"]] == ["Step 5", "Step 4"]
        assert poll("limit=1001").status_code == poll("limit=x").status_code == 400
        assert poll("limit=1000").status_code == 200
    for wrong, status in ((Tenant("", "wrong"), 401), (api.tenant(), 404)):
        with api.http(wrong) as http:
            assert http.get(f"/v1/fine_tuning/jobs/{job.id}/events").status_code == status
    with api.http(Tenant("", api.admin_key())) as http:
        assert http.get(f"/v1/fine_tuning/jobs/{job.id}/events").status_code == 403
