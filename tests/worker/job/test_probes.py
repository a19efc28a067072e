"""Probes against an api that is there, slow, broken or gone: the job is never worse for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from storage.jobs import checkpoints
from tests.worker.scene import FAKE, Scene, script
from worker.job import probes
from worker.job.run import run

CHAT = {"messages": [{"role": "user", "content": "Which colour?"}], "max_tokens": 8}
TEXT = {"prompt": "It is", "max_tokens": 4}
Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


@contextmanager
def api(scene: Scene, answer: Answer) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """An api that the scene's workers reach; gives what it was asked, as (project, body)."""
    seen: list[tuple[str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.headers["authorization"] == "Bearer secret"
            seen.append((self.headers["x-luthier-project"], body))
            status, value = answer(self.path, body)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Into no test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    scene.settings = scene.settings.replace(api_url=url, internal_key="secret")
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def well(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    text = f"\0 {body['model'][-4:]}"
    choice: dict[str, Any] = {"finish_reason": "stop"}
    choice |= {"message": {"content": text}} if "chat" in path else {"text": text}
    return 200, {"choices": [choice]}


def job(scene: Scene) -> str:
    luthier = {"probes": [CHAT, TEXT]}
    return scene.job(hyperparameters={"n_epochs": 3, "batch_size": 2, "luthier": luthier})


def answers(scene: Scene, job_id: str) -> dict[tuple[int, int], Any]:
    told = [e for e in scene.events(job_id) if e.key.startswith("probe:") and e.data]
    return {(e.data["step"], e.data["probe"]): e.data.get("answer") for e in told if e.data}


def test_each_probe_is_answered_before_training_and_after_each_epoch(scene: Scene) -> None:
    with api(scene, well) as seen:
        job_id = job(scene)
        run(scene.worker())
    row = scene.row(job_id)
    assert row.status == "succeeded", row.error
    found = answers(scene, job_id)
    assert sorted(found) == [(step, n) for step in (0, 5, 10, 15) for n in (1, 2)]
    names = {c.step: c.model_name for c in scene.checkpoints(job_id)} | {0: "tiny-random"}
    for (step, _), answer in found.items():
        assert answer == f"\N{REPLACEMENT CHARACTER} {names[step][-4:]}"
    assert len(seen) == 8
    assert {project for project, _ in seen} == {scene.project_id}
    fixed = {"temperature": 0, "seed": 7}
    assert {**CHAT, **fixed, "model": "tiny-random"} in [body for _, body in seen]
    assert {**TEXT, **fixed, "model": names[15]} in [body for _, body in seen]


def test_after_a_crash_only_what_is_missing_is_asked(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(die_at=[7], die_once=str(scene.settings.data_dir)))
    scene.settings.data_dir.mkdir(exist_ok=True)
    with api(scene, well) as seen:
        job_id = job(scene)
        worker = scene.worker()
        for _ in range(2):
            scene.end_pauses()
            run(worker)
    assert scene.row(job_id).status == "succeeded"
    assert len(answers(scene, job_id)) == 8
    # One under way when the trainer died may have been asked again.
    assert len({(b["model"], "prompt" in b) for _, b in seen}) == 8


def refuse(_: str, __: dict[str, Any]) -> tuple[int, Any]:
    return 400, {"error": {"message": "This kind cannot be served."}}


def break_down(_: str, __: dict[str, Any]) -> tuple[int, Any]:
    return 500, "nonsense"


def speak_nonsense(_: str, __: dict[str, Any]) -> tuple[int, Any]:
    return 200, {"choices": []}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuse, "has no answer: This kind cannot be served."),
        pytest.param(
            break_down,
            "has no answer: the inference server answered 500",
            marks=pytest.mark.slow,
        ),
        (speak_nonsense, "has no answer: it cannot be asked for (IndexError)"),
    ],
)
def test_a_server_that_fails_costs_the_answers_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, answer: Answer, words: str
) -> None:
    monkeypatch.setattr(probes, "PAUSES_S", (0.0, 0.01))
    with api(scene, answer):
        job_id = job(scene)
        run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    told = [e for e in scene.events(job_id) if e.key.startswith("probe:")]
    assert len(told) == 8
    assert all(e.level == "warn" and e.message.endswith(words) for e in told)


def test_a_server_that_hangs_does_not_hold_up_the_end_for_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "LAST_S", 0.5)
    gone = threading.Event()

    def hang(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        gone.wait(30)
        return well(path, body)

    with api(scene, hang):
        job_id = job(scene)
        run(scene.worker())
        gone.set()
    assert scene.row(job_id).status == "succeeded"
    assert answers(scene, job_id) == {}
    assert any("Probes had no answer within" in m for m in scene.messages(job_id))


def test_epochs_that_were_over_too_soon_are_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is asked before training is over.
    monkeypatch.setattr(probes, "POLL_S", 100.0)
    with api(scene, well):
        luthier = {"probes": [TEXT]}
        hyperparameters = {"n_epochs": 5, "batch_size": 2, "luthier": luthier}
        job_id = scene.job(hyperparameters=hyperparameters)
        run(scene.worker())
    assert sorted(step for step, _ in answers(scene, job_id)) == [0, 15, 20, 25]
    assert (
        scene.messages(job_id).count(
            "Newer checkpoints had replaced those of step 5, 10 before their probes were asked"
        )
        == 1
    )


def test_a_database_out_of_reach_costs_no_answers(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "LOOK_S", 0.01)
    looks = []

    def out_of_reach_at_first(*arguments: Any) -> Any:
        looks.append(arguments)
        if len(looks) < 4:
            raise OperationalError("SELECT", {}, ConnectionError("the server is starting up"))
        return all_checkpoints(*arguments)

    all_checkpoints = checkpoints.all
    monkeypatch.setattr(checkpoints, "all", out_of_reach_at_first)
    with api(scene, well):
        job_id = job(scene)
        run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    assert len(looks) >= 4
    assert {step for step, _ in answers(scene, job_id)} >= {0, 15}


def test_a_worker_that_knows_no_api_says_so(scene: Scene) -> None:
    job_id = job(scene)
    run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    assert (
        scene.messages(job_id).count(
            "Probes are not asked: this worker is not told of LUTHIER_API_URL"
        )
        == 1
    )
