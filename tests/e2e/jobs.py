"""What the tests do with jobs, through the unmodified client."""

from __future__ import annotations

import time
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from tests.factories import Json, jsonl


def upload(client: openai.OpenAI, rows: list[Json], name: str = "rows.jsonl") -> str:
    return client.files.create(file=(name, jsonl(rows)), purpose="fine-tune").id


def create(client: openai.OpenAI, rows: list[Json], **options: Any) -> FineTuningJob:
    return client.fine_tuning.jobs.create(
        **{"model": "tiny-random", "training_file": upload(client, rows), "seed": 7, **options}
    )


def hyperparameters(**values: Any) -> Any:
    return {"type": "supervised", "supervised": {"hyperparameters": values}}


def wait(client: openai.OpenAI, job_id: str, timeout_s: float = 60) -> FineTuningJob:
    """The job once it has ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        assert time.monotonic() < deadline, f"{job}\n{events(client, job_id)[-3:]}"
        time.sleep(0.05)


def wait_for_step(client: openai.OpenAI, job_id: str, step: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while last_step(client, job_id) < step:
        assert time.monotonic() < deadline, events(client, job_id)[-3:]
        time.sleep(0.02)


def events(client: openai.OpenAI, job_id: str) -> list[FineTuningJobEvent]:
    """All of them, oldest first."""
    return list(client.fine_tuning.jobs.list_events(job_id, limit=100))[::-1]


def steps(client: openai.OpenAI, job_id: str) -> list[Any]:
    """The data of the metrics events, oldest first."""
    return [e.data for e in events(client, job_id) if e.type == "metrics"]


def last_step(client: openai.OpenAI, job_id: str) -> int:
    newest = client.fine_tuning.jobs.list_events(job_id, limit=10).data
    return max((e.data["step"] for e in newest if e.type == "metrics"), default=0)  # type: ignore[index]


def ask(client: openai.OpenAI, model: str, question: str, **options: Any) -> str:
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        **{"temperature": 0, "max_tokens": 16, **options},
    )
    return reply.choices[0].message.content or ""
