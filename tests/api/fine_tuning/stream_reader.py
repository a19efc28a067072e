"""A job's stream of events as a client reads it, and what can happen to the job meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from storage.jobs import events, jobs
from tests.api.stack import Api, Tenant
from tests.storage.rows import add_job

Block = dict[str, str]
"""The fields of a server-sent event; a comment stands under the empty name."""

DONE: Block = {"data": "[DONE]"}


def get(
    http: httpx.Client, job_id: str, last_event_id: str | None = None, **params: str
) -> httpx.Response:
    """The whole reply, which ends with the job."""
    headers = {"last-event-id": last_event_id} if last_event_id is not None else {}
    return http.get(path(job_id), params={"stream": "true", **params}, headers=headers)


@contextmanager
def follow(
    http: httpx.Client, job_id: str, last_event_id: str | None = None
) -> Iterator[Iterator[Block]]:
    """What comes, block by block, as it comes; nothing is read that is not asked for."""
    headers = {"last-event-id": last_event_id} if last_event_id is not None else {}
    url = f"{path(job_id)}?stream=true"
    with http.stream("GET", url, headers=headers, timeout=30) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield blocks(reply.iter_bytes())


def path(job_id: str) -> str:
    return f"/v1/fine_tuning/jobs/{job_id}/events"


def blocks(chunks: Iterator[bytes]) -> Iterator[Block]:
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        *whole, buffer = buffer.split(b"\n\n")
        for block in whole:
            lines = (line.partition(": ") for line in block.decode().split("\n"))
            yield {name: value for name, _, value in lines}
    assert buffer == b"", "the stream ends within an event"


def job(api: Api, tenant: Tenant) -> str:
    """A job that goes on; its one event tells that it was created."""
    with api.sessions.begin() as session:
        return add_job(session, tenant.project_id).id


def add(api: Api, job_id: str, *messages: str) -> None:
    with api.sessions.begin() as session:
        for message in messages:
            data = {"step": 1, "loss": 0.5}
            events.add(session, job_id, message[:40], message, type="metrics", data=data)


def cancel(api: Api, tenant: Tenant, job_id: str) -> None:
    with api.sessions.begin() as session:
        jobs.cancel(session, tenant.project_id, job_id)


def polled(http: httpx.Client, job_id: str) -> list[Any]:
    """Oldest first."""
    page = http.get(path(job_id), params={"limit": 1000}).json()
    assert not page["has_more"]
    return list(page["data"][::-1])


def read(parts: list[Block]) -> list[Any]:
    """The events of blocks that are nothing else."""
    found = [json.loads(block["data"]) for block in parts]
    assert [(block["id"], block["event"]) for block in parts] == [
        (event["id"], "message") for event in found
    ]
    return found


def take(followed: Iterator[Block], count: int) -> list[Any]:
    return read([next(followed) for _ in range(count)])


def messages(found: list[Any]) -> list[str]:
    return [event["message"] for event in found]
