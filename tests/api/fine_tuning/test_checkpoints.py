from __future__ import annotations

import openai

from storage.jobs import checkpoints
from tests.api.stack import Api

from .test_jobs import create


def test_checkpoints_are_newest_first_with_the_ends_of_the_page(
    api: Api, client: openai.OpenAI
) -> None:
    job = create(client)
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []
    with api.sessions.begin() as session:
        for step in (10, 20, 30):
            checkpoints.create(
                session,
                job_id=job.id,
                step=step,
                model_name=f"ft:tiny-random:acme::x:ckpt-step-{step}",
                metrics={"step": step, "train_loss": 1.25, "full_valid_loss": 1.5},
            )
    found = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))
    assert [c.step_number for c in found] == [30, 20, 10]
    newest = found[0]
    assert newest.object == "fine_tuning.job.checkpoint"
    assert newest.fine_tuning_job_id == job.id
    assert newest.fine_tuned_model_checkpoint == "ft:tiny-random:acme::x:ckpt-step-30"
    assert newest.metrics.full_valid_loss == 1.5
    raw = client.fine_tuning.jobs.checkpoints.with_raw_response.list(job.id, limit=2)
    body = raw.http_response.json()
    assert (body["first_id"], body["last_id"]) == (found[0].id, found[1].id)
    assert body["has_more"]
    assert set(body["data"][0]) == {
        "id", "object", "created_at", "fine_tuned_model_checkpoint", "fine_tuning_job_id",
        "metrics", "step_number",
    }  # fmt: skip
