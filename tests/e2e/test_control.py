"""Controlled jobs on a real server: probes answered while it trains, and an early end with the best checkpoint."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e import jobs
from tests.factories import colour_rows

pytestmark = pytest.mark.slow

QUESTION = "Question number 99?"


def test_probes_show_how_a_job_learns(client: openai.OpenAI) -> None:
    chat = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
    luthier = {"probes": [chat, {"prompt": "It is", "max_tokens": 4}]}
    asked: Any = {"n_epochs": 5, "batch_size": 4, "learning_rate_multiplier": 4, "luthier": luthier}
    job = jobs.create(client, colour_rows(24), method=jobs.hyperparameters(**asked))
    done = jobs.wait(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.hyperparameters.model_dump()["luthier"]["probes"] == luthier["probes"]
    reply: Any = client.get(f"/luthier/jobs/{job.id}/probes", cast_to=object)
    answers = {(each["step"], each["probe"]): each for each in reply["data"]}
    # Each once; of checkpoints that newer ones replaced before they were asked there may be none.
    assert len(answers) == len(reply["data"])
    assert {(0, 1), (0, 2), (30, 1), (30, 2)} <= answers.keys()
    assert answers[30, 1]["answer"] == "It is blue."
    assert answers[30, 1]["model"] == done.fine_tuned_model
    assert answers[30, 1]["messages"] == chat["messages"]
    assert answers[30, 1]["error"] is None
    assert answers[0, 1]["answer"] == jobs.ask(client, "tiny-random", QUESTION)
    assert answers[0, 1]["answer"] != "It is blue."
    told = [e.message for e in jobs.events(client, job.id)]
    assert "Probe 1 after step 30: It is blue." in told
    page: Any = client.get(f"/luthier/jobs/{job.id}/probes?limit=1", cast_to=object)
    assert [page["has_more"], page["data"]] == [True, reply["data"][:1]]


def test_a_job_ends_early_and_its_best_epoch_is_the_model(client: openai.OpenAI) -> None:
    luthier = {
        "lr_schedule": "cosine",
        "dropout": 0.1,
        # Nothing falls by ten nats.
        "early_stopping": {"patience": 2, "min_delta": 10},
        "keep": "best",
    }
    asked: Any = {"n_epochs": 9, "batch_size": 4, "learning_rate_multiplier": 4, "luthier": luthier}
    job = jobs.create(
        client,
        colour_rows(12),
        validation_file=jobs.upload(client, colour_rows(10)),
        method=jobs.hyperparameters(**asked),
    )
    done = jobs.wait(client, job.id)
    assert done.status == "succeeded", done.error
    shown = done.hyperparameters.model_dump()["luthier"]
    assert (shown["lr_schedule"], shown["dropout"], shown["warmup_steps"]) == ("cosine", 0.1, 1)
    steps = jobs.steps(client, job.id)
    assert [m["step"] for m in steps] == list(range(1, 10))
    losses = {m["step"]: m["full_valid_loss"] for m in steps if "full_valid_loss" in m}
    best = min(losses, key=lambda step: losses[step])
    messages = [e.message for e in jobs.events(client, job.id)]
    assert "Training ended early at step 9/27: no gain in full_valid_loss for 2 epochs" in messages
    assert any(m.startswith(f"The checkpoint of step {best} is the model") for m in messages)
    assert done.fine_tuned_model is not None
    assert jobs.ask(client, done.fine_tuned_model, "Question number 1?")
