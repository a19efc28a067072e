from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from api.fine_tuning.control import Control
from api.fine_tuning.request import AVAILABLE_METHODS, Hyperparameters
from api.fine_tuning.tuning import OPTIONS
from luthier.cli.job_fields import OF_METHOD, OF_TUNING
from luthier.cli.job_options import _control_options
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


def created(luthier: Run, api: FakeApi, *options: str) -> dict[str, Any]:
    """What was sent but for the model and the file."""
    result = luthier("jobs", "create", "file-1", "--model", "tiny-random", *options)
    assert result.exit_code == 0, result.output
    _, body = api.requests[-1]
    return {name: value for name, value in body.items() if name not in ("model", "training_file")}


def test_every_method_and_tuning_can_be_asked_for(luthier: Run, api: FakeApi) -> None:
    assert created(
        luthier,
        api,
        *("--method", "classification", "--head", "--class-weights", "a b=2, c=0.5"),
        *("--betas", "0.5,2", "--n-epochs", "3", "--tuning", "lora", "--rank", "16"),
        *("--targets", "q_proj, v_proj", "--rslora", "--keep", "best", "--dropout", "0.1"),
        *("--patience", "2", "--stop-metric", "full_valid_accuracy", "--probe", "Hello?"),
        *("--shared", "never"),
    ) == {
        "method": {
            "type": "classification",
            "classification": {
                "hyperparameters": {
                    "n_epochs": 3,
                    "head": True,
                    "class_weights": {"a b": 2.0, "c": 0.5},
                    "betas": [0.5, 2.0],
                    "luthier": {
                        "dropout": 0.1,
                        "shared": "never",
                        "keep": "best",
                        "early_stopping": {"patience": 2, "metric": "full_valid_accuracy"},
                        "probes": [{"messages": [{"role": "user", "content": "Hello?"}]}],
                    },
                }
            },
        },
        "tuning": {"type": "lora", "rank": 16, "targets": ["q_proj", "v_proj"], "rslora": True},
    }
    assert created(
        luthier,
        api,
        *("--method", "dpo", "--beta", "0.2", "--loss-type", "ipo"),
        *("--tuning", "output_layers", "--blocks", "1", "--train-head"),
    ) == {
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "loss_type": "ipo"}}},
        "tuning": {"type": "output_layers", "blocks": 1, "head": True},
    }
    raw = created(
        luthier,
        api,
        *("--method", "unsupervised", "--overlap", "0", "--class-weights", "balanced")[:4],
        *("--probe", "Once", "--tuning", "prefix", "--prefix-length", "8"),
    )
    hyperparameters = {"overlap": 0, "luthier": {"probes": [{"prompt": "Once"}]}}
    assert raw["method"]["unsupervised"] == {"hyperparameters": hyperparameters}
    assert raw["tuning"] == {"type": "prefix", "length": 8}
    # LoRA is what is meant where nobody says otherwise.
    assert created(luthier, api, "--alpha", "16")["tuning"] == {"type": "lora", "alpha": 16.0}
    assert created(luthier, api, "--tuning", "full")["tuning"] == {"type": "full"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--beta", "0.1"), "--beta goes with --method dpo only"),
        (("--method", "dpo", "--head"), "--head goes with --method classification only"),
        (("--blocks", "2"), "--blocks goes with --tuning output_layers only"),
        (("--tuning", "full", "--rank", "8"), "--rank goes with --tuning lora only"),
        (("--min-delta", "1"), "--min-delta goes with --patience only"),
        (
            ("--method", "classification", "--betas", "1,x"),
            "--betas has 'x' where a number is expected",
        ),
    ],
)
def test_options_that_say_nothing_beside_the_others_are_refused(
    luthier: Run, api: FakeApi, options: tuple[str, ...], words: str
) -> None:
    result = luthier("jobs", "create", "file-1", "--model", "tiny-random", *options)
    assert result.exit_code == 1
    assert words in result.stderr
    assert api.requests == []


def test_every_option_is_one_that_the_server_knows() -> None:
    """By the server's own words for methods, tunings and knobs."""
    fields = {
        method: set(block.model_fields) - set(Hyperparameters.model_fields)
        for method, block in AVAILABLE_METHODS.items()
    }
    assert {str(method): set(names) for method, names in OF_METHOD.items()} == fields
    tunings = {str(kind): set(names.values()) for kind, names in OF_TUNING.items()}
    assert tunings == {kind: set(names) for kind, names in OPTIONS.items()}
    ours = set(inspect.signature(_control_options).parameters)
    renamed = {"early_stopping": {"patience", "min_delta", "stop_metric"}, "probes": {"probe"}}
    theirs = set().union(*(renamed.get(name, {name}) for name in Control.model_fields))
    assert ours == theirs
