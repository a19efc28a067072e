"""Two tenants of one server, and what one of them waits for: a chat, a job, a batch, a webhook.

Everything goes through the public API, with a connection of its own for each wait.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

POLL_S = 0.05
ENDED = ("succeeded", "failed", "cancelled", "completed", "expired")


class NotServed(Exception):
    """What was asked for in good faith was refused, failed, or did not come in time.

    Where nothing is answered at all, httpx says so by exceptions of its own.
    """


@dataclass(frozen=True)
class Tenant:
    """A project and a key of its own."""

    base_url: str
    api_key: str
    model: str

    def http(self, timeout_s: float) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, headers=self.headers, timeout=timeout_s)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"}


def new_tenant(base_url: str, admin_key: str, name: str, model: str) -> Tenant:
    admin = Tenant(base_url, admin_key, model)
    with admin.http(30.0) as http:
        project = _sent(http, "organization/projects", {"name": name})["id"]
        accounts = f"organization/projects/{project}/service_accounts"
        key = _sent(http, accounts, {"name": name})["api_key"]["value"]
    return Tenant(base_url, key, model)


def chat_body(model: str, content: str, num_tokens: int = 1, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": num_tokens, **more}


def training_rows(num_rows: int = 10) -> bytes:
    """Ten are the fewest that a job takes."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": "Blue."},
            ]
        }
        for number in range(num_rows)
    ]
    return lines(rows)


def job_body(model: str, file_id: str, **hyperparameters: Any) -> dict[str, Any]:
    given = {"n_epochs": 1, "batch_size": 4, **hyperparameters}
    method = {"type": "supervised", "supervised": {"hyperparameters": given}}
    return {"model": model, "training_file": file_id, "seed": 1, "method": method}


def lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def wait_for_chat(tenant: Tenant, timeout_s: float) -> float:
    """Seconds to the first token."""
    return _timed_chat(tenant, f"Hello {uuid.uuid4().hex[:8]}", timeout_s)


def wait_for_full_step(tenant: Tenant, timeout_s: float) -> float:
    """The same for a prompt that fills one step of the engine, more or less."""
    return _timed_chat(tenant, f"{uuid.uuid4().hex} " + "so it is " * 23, timeout_s)


def _timed_chat(tenant: Tenant, content: str, timeout_s: float) -> float:
    began = time.perf_counter()
    with tenant.http(timeout_s) as http:
        _sent(http, "chat/completions", chat_body(tenant.model, content))
    return time.perf_counter() - began


def wait_for_job(tenant: Tenant, timeout_s: float) -> float:
    """Seconds from creating a small job to its first step."""
    with tenant.http(timeout_s) as http:
        file_id = upload(http, training_rows(), "fine-tune")
        began = time.perf_counter()
        job = _sent(http, "fine_tuning/jobs", job_body(tenant.model, file_id))["id"]

        def has_stepped() -> bool:
            events = _got(http, f"fine_tuning/jobs/{job}/events")["data"]
            if any(event["level"] == "error" for event in events):
                raise NotServed(f"the job failed: {events[0]['message']}")
            return any(event["type"] == "metrics" for event in events)

        _wait_until(has_stepped, began + timeout_s, f"no step of a job after {timeout_s:.0f} s")
        return time.perf_counter() - began


def wait_for_batch(tenant: Tenant, timeout_s: float) -> float:
    """Seconds from creating a batch of one line to its end."""
    body = chat_body(tenant.model, f"Hello {uuid.uuid4().hex[:8]}")
    with tenant.http(timeout_s) as http:
        file_id = upload(http, batch_lines([body]), "batch")
        began = time.perf_counter()
        batch = _sent(http, "batches", batch_body(file_id))["id"]

        def has_ended() -> bool:
            return _got(http, f"batches/{batch}")["status"] in ENDED

        _wait_until(has_ended, began + timeout_s, f"a batch unanswered after {timeout_s:.0f} s")
        return time.perf_counter() - began


def wait_for_webhook(tenant: Tenant, timeout_s: float) -> float:
    """Seconds from cancelling a job to hearing of it."""
    with _receiver() as (url, heard), tenant.http(timeout_s) as http:
        endpoint = _sent(http, "webhook_endpoints", endpoint_body(url))["id"]
        file_id = upload(http, training_rows(), "fine-tune")
        job = _sent(http, "fine_tuning/jobs", job_body(tenant.model, file_id))["id"]
        began = time.perf_counter()
        _sent(http, f"fine_tuning/jobs/{job}/cancel", {})
        if not heard.wait(timeout_s):
            raise NotServed(f"no webhook after {timeout_s:.0f} s")
        waited_s = time.perf_counter() - began
        http.delete(f"webhook_endpoints/{endpoint}")
        return waited_s


def upload(http: httpx.Client, content: bytes, purpose: str) -> str:
    files = {"file": ("rows.jsonl", content)}
    return str(_answer(http.post("files", files=files, data={"purpose": purpose}))["id"])


def batch_lines(bodies: Sequence[dict[str, Any]]) -> bytes:
    return lines(
        [
            {"custom_id": f"{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            for n, body in enumerate(bodies)
        ]
    )


def batch_body(file_id: str) -> dict[str, Any]:
    return {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }


def endpoint_body(url: str) -> dict[str, Any]:
    return {"name": "bench", "url": url, "event_types": ["fine_tuning.job.cancelled"]}


@contextmanager
def _receiver() -> Iterator[tuple[str, threading.Event]]:
    """A receiver of webhooks on loopback, and whether it has heard anything."""
    heard = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            heard.set()
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _sent(http: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    return _answer(http.post(path, json=body))


def _got(http: httpx.Client, path: str) -> dict[str, Any]:
    return _answer(http.get(path))


def _answer(reply: httpx.Response) -> dict[str, Any]:
    if reply.status_code >= 400:
        raise NotServed(f"{reply.request.url.path} answered {reply.status_code}")
    value: dict[str, Any] = reply.json()
    return value


def _wait_until(is_true: Callable[[], bool], deadline: float, problem: str) -> None:
    while not is_true():
        if time.perf_counter() > deadline:
            raise NotServed(problem)
        time.sleep(POLL_S)
