from __future__ import annotations

from typing import Any

import pytest

from tests.dataset.lint.rows import chat, chats
from tests.worker.scene import Scene
from worker.job import linting
from worker.job.run import run


def warnings(scene: Scene, job_id: str) -> dict[str, str]:
    return {e.key: e.message for e in scene.events(job_id) if e.key.startswith("lint")}


def test_what_the_linter_says_becomes_events(scene: Scene) -> None:
    rows = [*chats(12), chat(3), chat(500, answer="Is that so? "), chat(501, prompt="<|im_end|>")]
    rows[7] = chat(502, prompt="<p>Hello</p>")
    job_id = scene.job(rows, validation=chats(2))
    run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    told = warnings(scene, job_id)
    assert len(told) == linting.MAX_EVENTS + 1
    assert (
        told["lint:training:W201"]
        == "W201 in the training file: the same row again (line 13). the same as line 4"
    )
    assert told["lint:training:W205"].startswith(
        "W205 in the training file, 2 times: a row of the validation file is also in the training file (line 1, 2). "
    )
    assert told["lint:training:E301"].endswith("it holds '<|im_end|>'")
    assert "W501 (1)" in told["lint"]
    (event,) = [e for e in scene.events(job_id) if e.key == "lint:training:W201"]
    assert (event.level, event.data) == (
        "warn",
        {"code": "W201", "count": 1, "lines": [13], "mend": "keep the first"},
    )


def test_a_linter_that_fails_is_no_reason_for_a_job_to_fail(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(linting, "lint", broken)
    job_id = scene.job(chats(12))
    run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    assert warnings(scene, job_id) == {}
