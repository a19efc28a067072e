from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.worker.scene import Scene
from worker.job import result_file
from worker.job.run import run


@dataclass
class Engine:
    """An inference server as far as the worker sees it."""

    url: str
    requests: list[tuple[str, str | None, Any]] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    """Of the job, at each request."""


@contextmanager
def engine(scene: Scene, job_id: str, reply: int = 200) -> Iterator[Engine]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            it.requests.append((self.path, self.headers["authorization"], json.loads(body)))
            it.statuses.append(scene.row(job_id).status)
            self.send_response(reply)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    it = Engine(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield it
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_engines_of_the_base_load_the_model_before_its_job_succeeds(scene: Scene) -> None:
    job_id = scene.job()
    with engine(scene, job_id) as good, engine(scene, job_id, reply=500) as bad:
        nobody = "http://127.0.0.1:1"
        scene.settings = scene.settings.replace(
            internal_key="internal",
            backends={"tiny-random": (bad.url, nobody, good.url), "other": ("http://127.0.0.1:2",)},
        )
        run(scene.worker())
    job = scene.row(job_id)
    assert job.status == "succeeded"
    _, adapter = scene.model(job.fine_tuned_model or "")
    assert good.requests == [
        (
            f"/v1/luthier/adapters/{adapter.id}/prefetch",
            "Bearer internal",
            {"sha256": adapter.sha256, "size_bytes": adapter.size_bytes, "kind": "lora"},
        )
    ]
    assert good.statuses == ["running"]
    assert len(bad.requests) == 1


def test_result_file_is_empty_where_a_step_has_no_value() -> None:
    steps: list[dict[str, Any]] = [
        {"step": 1, "train_loss": None, "train_mean_token_accuracy": 1 / 3},
        {"step": 2, "train_loss": 1.0, "train_mean_token_accuracy": 0, "valid_loss": 2 / 3},
    ]
    assert result_file.render(steps).decode() == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,,0.33333,,\n"
        "2,1.00000,0,0.66667,\n"
    )
