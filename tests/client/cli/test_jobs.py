from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.client.fake_api import JOB, MODEL, FakeApi, event, job, step_event

from .conftest import Run


def finished(api: FakeApi, status: str = "succeeded", **fields: Any) -> None:
    api.jobs[JOB] = job(status=status, **fields)


def test_create_uploads_local_files_and_leaves_the_rest_to_the_server(
    luthier: Run, api: FakeApi
) -> None:
    Path("train.jsonl").write_text("{}\n")
    result = luthier(
        *("jobs", "create", "train.jsonl", "--model", "tiny-random"),
        *("--validation-file", "file-9", "--n-epochs", "2", "--seed", "0", "--json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["id"] == JOB
    assert result.stderr == "Uploaded train.jsonl as file-1\n"
    assert api.requests == [
        (
            "jobs",
            {
                "model": "tiny-random",
                "training_file": "file-1",
                "validation_file": "file-9",
                "seed": 0,
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"n_epochs": 2}},
                },
            },
        )
    ]


def test_create_and_follow_goes_on_to_the_end(luthier: Run, api: FakeApi) -> None:
    api.events = [event(1, "Fine-tuning job started")]
    finished(api, fine_tuned_model=MODEL)
    result = luthier("jobs", "create", "file-1", "--model", "tiny-random", "--follow")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"Created {JOB}"
    assert lines[1].endswith(" Fine-tuning job started")
    assert lines[2] == f"Model: {MODEL}"


def test_follow_prints_plain_lines_with_the_pace(luthier: Run, api: FakeApi) -> None:
    api.events = [event(0, "Fine-tuning job started"), step_event(1, 4), step_event(2, 4)]

    def end() -> None:
        api.events += [step_event(3, 4, valid_loss=1.25), step_event(4, 4)]
        finished(api, fine_tuned_model=MODEL)

    threading.Timer(0.3, end).start()
    result = luthier("jobs", "follow", JOB)
    assert result.exit_code == 0
    lines = [line.split(" ", 1)[1] for line in result.stdout.splitlines()]
    assert lines == [
        "Fine-tuning job started",
        "Step 1/4: training loss=1.50",
        "Step 2/4: training loss=1.50, 100 tokens/s, 0:02 left",
        "Step 3/4: training loss=1.50, 100 tokens/s, 0:01 left",
        "Step 4/4: training loss=1.50, 100 tokens/s, 0:00 left",
        MODEL,
    ]


def test_follow_resumes_and_prints_json_lines(luthier: Run, api: FakeApi) -> None:
    api.events = [event(n) for n in range(5)]
    finished(api)
    result = luthier("jobs", "follow", JOB, "--after", "ftevent-2", "--json")
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert printed == api.events[3:]


@pytest.mark.parametrize(
    ("status", "error", "line"),
    [
        ("cancelled", None, "the job was cancelled"),
        ("failed", {"code": "x", "message": "Too few examples", "param": None}, "Too few examples"),
        ("failed", None, "the server gives no reason"),
    ],
)
def test_follow_fails_when_the_job_does_not_succeed(
    luthier: Run, api: FakeApi, status: str, error: object, line: str
) -> None:
    finished(api, status, error=error)
    result = luthier("jobs", "follow", JOB)
    assert result.exit_code == 1
    assert line in result.stderr


def test_list_show_and_cancel(luthier: Run, api: FakeApi) -> None:
    api.jobs = {f"ftjob-{n}": job(f"ftjob-{n}") for n in range(30)}
    assert len(luthier("jobs", "list", "--limit", "25").stdout.splitlines()) == 26
    listed = json.loads(luthier("jobs", "list", "--json").stdout)
    assert listed == {"object": "list", "data": list(api.jobs.values())[:20]}
    assert json.loads(luthier("jobs", "show", "ftjob-7", "--json").stdout) == api.jobs["ftjob-7"]
    assert "status            running" in luthier("jobs", "show", "ftjob-7").stdout
    assert "cancelled" in luthier("jobs", "cancel", "ftjob-7").stdout


def test_pause_and_resume(luthier: Run, api: FakeApi) -> None:
    assert "status            running" in luthier("jobs", "pause", JOB).stdout
    assert api.jobs[JOB]["status"] == "paused"
    assert json.loads(luthier("jobs", "resume", JOB, "--json").stdout)["status"] == "queued"


def test_events_and_checkpoints(luthier: Run, api: FakeApi) -> None:
    api.events = [event(n) for n in range(150)]
    shown = luthier("jobs", "events", JOB, "--limit", "2").stdout.splitlines()
    assert [line.split("  ")[-1].strip() for line in shown[1:]] == ["event 149", "event 148"]
    assert len(luthier("jobs", "events", JOB, "--limit", "120").stdout.splitlines()) == 121
    assert f"{MODEL}:ckpt-step-7" in luthier("jobs", "checkpoints", JOB).stdout
