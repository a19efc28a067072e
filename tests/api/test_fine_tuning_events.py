from __future__ import annotations

from typing import Any

import openai

from storage import events
from tests.api.stack import Api
from tests.api.test_fine_tuning_jobs import create


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
