"""Rows that look as if a team had used the server for a while, hostile ones among them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import update

from storage.jobs import checkpoints, events
from storage.jobs.jobs import JobRow
from tests.api.stack import Api, Tenant
from tests.storage.rows import add_file, add_job

HOSTILE = "<img src=x onerror=alert(1)>"
LONG = "w" * 3000
RUNNING = "ftjob-support0running"
DONE = "ftjob-support00000done"
FAILED = "ftjob-support000failed"
QUEUED = "ftjob-support000queued"
NUM_STEPS = 120
_START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def fill(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant).name
    with api.sessions.begin() as session:
        for name in ("train.jsonl", "holdout.jsonl", f"{HOSTILE}.jsonl"):
            add_file(session, tenant.project_id, filename=name, purpose="fine-tune")
        _job(
            session,
            tenant,
            DONE,
            suffix="support mails",
            status="succeeded",
            fine_tuned_model=model,
            trained_tokens=822_700,
        )
        _job(session, tenant, RUNNING, suffix="support mails, more epochs", status="running")
        _job(session, tenant, QUEUED, suffix="\u202etxet desrever", status="queued")
        error = {
            "code": "invalid_training_file",
            "message": f"Line 3 of the file: {HOSTILE} is no role; write 'user'.",
            "param": "training_file",
        }
        _job(session, tenant, FAILED, suffix=HOSTILE, status="failed", error=error)
        for job_id in (DONE, RUNNING):
            _train(session, job_id, NUM_STEPS if job_id == DONE else NUM_STEPS // 2)
        events.add(session, RUNNING, "hostile", f"{HOSTILE} {LONG}", level="warn", data={})
        metrics = {"step": NUM_STEPS, "valid_loss": 0.71, "full_valid_loss": 0.74}
        checkpoints.create(
            session,
            job_id=DONE,
            step=NUM_STEPS,
            model_name=f"{model}:ckpt-step-{NUM_STEPS}",
            metrics=metrics,
        )


def _job(session: Any, tenant: Tenant, job_id: str, **values: Any) -> None:
    add_job(session, tenant.project_id, id=job_id, **values)
    is_over = values["status"] in ("succeeded", "failed")
    session.execute(
        update(JobRow)
        .where(JobRow.id == job_id)
        .values(created_at=_START, finished_at=_START + timedelta(minutes=12) if is_over else None)
    )


def _train(session: Any, job_id: str, num_steps: int) -> None:
    for step in range(1, num_steps + 1):
        loss = 0.6 + 2.2 * math.exp(-step / 25) + 0.08 * math.sin(step * 1.7)
        data: dict[str, Any] = {
            "step": step,
            "train_loss": loss,
            "total_steps": NUM_STEPS,
            "num_tokens": 6800 * step,
        }
        if step % 10 == 0:
            data["valid_loss"] = loss + 0.12
        text = f"Step {step}/{NUM_STEPS}: training loss={loss:.2f}"
        events.add(session, job_id, f"step:{step}", text, type="metrics", data=data)
