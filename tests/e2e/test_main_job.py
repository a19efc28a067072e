"""Upload, job, events, tuned model: the whole way through the unmodified `openai` client."""

from __future__ import annotations

import base64
import csv
import io
import re
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luthier import Luthier
from tests.e2e import jobs
from tests.e2e.stack import LUTHIER, Stack
from tests.factories import colour_rows, prompt_rows


@pytest.fixture(scope="module")
def trained(stack: Stack) -> str:
    """The id of a job that has succeeded: 24 rows, 3 epochs, with a validation file."""
    with stack.client() as client:
        job = jobs.create(
            client,
            colour_rows(24),
            model="gpt-4o-mini",
            validation_file=jobs.upload(client, colour_rows(10)),
            suffix="colours",
            metadata={"team": "paint"},
            method=jobs.hyperparameters(n_epochs=5, batch_size=4, learning_rate_multiplier=4),
        )
        assert job.status == "validating_files"
        assert job.model == "tiny-random"
        assert job.seed == 7
        done = jobs.wait(client, job.id)
        assert done.status == "succeeded", jobs.events(client, job.id)[-3:]
        return job.id


@pytest.fixture
def model(client: openai.OpenAI, trained: str) -> str:
    name = client.fine_tuning.jobs.retrieve(trained).fine_tuned_model
    assert name is not None
    return name


def test_a_finished_job_reports_what_was_done(client: openai.OpenAI, trained: str) -> None:
    job = client.fine_tuning.jobs.retrieve(trained)
    assert job.fine_tuned_model is not None
    assert re.fullmatch(r"ft:tiny-random:[\w-]+:colours:\w{8}", job.fine_tuned_model)
    assert job.error is None
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    assert job.trained_tokens is not None
    assert job.trained_tokens > 24 * 5
    assert job.trained_tokens % 5 == 0
    assert job.metadata == {"team": "paint"}
    assert job.hyperparameters.n_epochs == 5
    assert job.hyperparameters.batch_size == 4
    assert [j.id for j in client.fine_tuning.jobs.list(limit=100)].count(job.id) == 1


def test_events_tell_the_whole_story_in_order(client: openai.OpenAI, trained: str) -> None:
    events = jobs.events(client, trained)
    job = client.fine_tuning.jobs.retrieve(trained)
    # The linter's warnings are in words of its own.
    messages = [e.message for e in events if e.type == "message" and e.level == "info"]
    assert messages.pop(2).startswith("Forecast: ")
    assert messages[:4] == [
        f"Created fine-tuning job: {trained}",
        f"Validating training file: {job.training_file} and validation file: {job.validation_file}",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
    ]
    assert messages[-2:] == ["New fine-tuned model created", "The job has successfully completed"]
    assert len({e.id for e in events}) == len(events)
    metrics = jobs.steps(client, trained)
    assert [m["step"] for m in metrics] == list(range(1, 31))
    assert {m["total_steps"] for m in metrics} == {30}
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"] / 2
    assert all("full_valid_loss" in m for m in metrics if m["step"] % 6 == 0)
    assert any("valid_loss" in m for m in metrics)
    first = next(e for e in events if e.type == "metrics")
    assert re.match(r"Step 1/30: training loss=\d+\.\d\d", first.message)


def test_events_page_newest_first(client: openai.OpenAI, trained: str) -> None:
    newest = client.fine_tuning.jobs.list_events(trained, limit=2)
    assert newest.data[0].message == "The job has successfully completed"
    assert newest.has_more
    next_page = client.fine_tuning.jobs.list_events(trained, limit=2, after=newest.data[-1].id)
    assert {e.id for e in next_page.data}.isdisjoint({e.id for e in newest.data})


def test_the_last_three_checkpoints_are_models(
    client: openai.OpenAI, trained: str, model: str
) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(trained))
    assert [c.step_number for c in checkpoints] == [30, 24, 18]
    assert checkpoints[0].fine_tuned_model_checkpoint == model
    assert checkpoints[1].fine_tuned_model_checkpoint.endswith(":ckpt-step-24")
    assert checkpoints[0].metrics.full_valid_loss is not None
    listed = {m.id for m in client.models.list()}
    assert {c.fine_tuned_model_checkpoint for c in checkpoints} <= listed
    assert jobs.ask(client, checkpoints[2].fine_tuned_model_checkpoint, "Question number 3?")


def test_the_result_file_holds_a_line_for_each_step(client: openai.OpenAI, trained: str) -> None:
    (file_id,) = client.fine_tuning.jobs.retrieve(trained).result_files
    text = base64.b64decode(client.files.content(file_id).read()).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 30
    assert list(rows[0]) == [
        "step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy",
    ]  # fmt: skip
    assert client.files.retrieve(file_id).purpose == "fine-tune-results"


def test_the_tuned_model_answers_what_it_learnt(client: openai.OpenAI, model: str) -> None:
    assert jobs.ask(client, model, "Question number 99?") == "It is blue."
    assert jobs.ask(client, "tiny-random", "Question number 99?") != "It is blue."
    assert jobs.ask(client, "gpt-4o-mini", "Hello?") == jobs.ask(client, "tiny-random", "Hello?")


def test_a_streamed_reply_equals_the_whole_one(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Question number 5?"}],
        temperature=0,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "It is blue."
    assert {c.model for c in chunks} == {model}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_completions_of_a_tuned_model(client: openai.OpenAI) -> None:
    job = jobs.create(
        client,
        prompt_rows(12),
        method=jobs.hyperparameters(n_epochs=12, batch_size=4, learning_rate_multiplier=4),
    )
    done = jobs.wait(client, job.id)
    assert done.fine_tuned_model is not None, done.error
    reply = client.completions.create(
        model=done.fine_tuned_model, prompt="item 7 ->", max_tokens=10, temperature=0, n=1
    )
    assert reply.choices[0].text == " sold"
    assert reply.choices[0].finish_reason == "stop"


def test_adapters_are_served_side_by_side_and_soon_after_success(client: openai.OpenAI) -> None:
    learnt = {}
    for colour in ("red", "green"):
        job = jobs.create(
            client,
            colour_rows(12, colour),
            method=jobs.hyperparameters(n_epochs=10, batch_size=4, learning_rate_multiplier=4),
        )
        done = jobs.wait(client, job.id)
        began = time.monotonic()
        assert done.fine_tuned_model is not None
        assert jobs.ask(client, done.fine_tuned_model, "Question number 1?") == f"It is {colour}."
        # Cold: the adapter comes from the blob store. A second is what users are promised.
        assert time.monotonic() - began < 3
        learnt[colour] = done.fine_tuned_model
    for colour, model in learnt.items():
        assert jobs.ask(client, model, "Question number 2?") == f"It is {colour}."


def test_the_downloaded_adapter_gives_the_same_tokens_in_peft(
    stack: Stack, client: openai.OpenAI, model: str, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reply = httpx.get(
        f"{stack.base_url}/luthier/models/{model}/adapter",
        headers={"authorization": f"Bearer {stack.api_key}"},
    )
    assert reply.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    base = stack.data / "bases" / "tiny-random"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tuned: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), tmp_path
    ).eval()
    for question in ("Question number 4?", "What else is there?"):
        prompt: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            tokens = tuned.generate(**prompt, max_new_tokens=16, do_sample=False)
        text = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert jobs.ask(client, model, question) == text


def test_training_goes_on_from_a_tuned_model(client: openai.OpenAI, model: str) -> None:
    job = jobs.create(
        client,
        colour_rows(12),
        model=model,
        method=jobs.hyperparameters(n_epochs=1, batch_size=4, learning_rate_multiplier=1),
    )
    done = jobs.wait(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.model == model
    # It begins where the first job ended, not from nothing.
    assert jobs.steps(client, job.id)[0]["train_loss"] < 0.5


def test_a_deleted_model_is_gone(client: openai.OpenAI) -> None:
    job = jobs.create(client, colour_rows(10), method=jobs.hyperparameters(n_epochs=1))
    model = jobs.wait(client, job.id).fine_tuned_model
    assert model is not None
    assert client.models.retrieve(model).id == model
    assert client.models.delete(model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model)
    with pytest.raises(openai.NotFoundError) as caught:
        jobs.ask(client, model, "Still there?")
    assert caught.value.code == "model_not_found"


def test_a_bad_file_fails_the_job_with_the_line(client: openai.OpenAI) -> None:
    rows = colour_rows(12)
    rows[4]["messages"][0]["role"] = "robot"
    done = jobs.wait(client, jobs.create(client, rows).id)
    assert done.status == "failed"
    assert done.error is not None
    assert done.error.param == "training_file"
    assert "Example 5" in done.error.message
    assert done.fine_tuned_model is None
    too_few = jobs.wait(client, jobs.create(client, colour_rows(7)).id)
    assert too_few.error is not None
    assert too_few.error.code == "invalid_n_examples"


def test_a_finished_job_cannot_be_cancelled(client: openai.OpenAI, trained: str) -> None:
    with pytest.raises(openai.BadRequestError, match="already succeeded"):
        client.fine_tuning.jobs.cancel(trained)


def test_cancelling_stops_within_a_step(client: openai.OpenAI) -> None:
    job = jobs.create(
        client, colour_rows(200), method=jobs.hyperparameters(n_epochs=50, batch_size=2)
    )
    jobs.wait_for_step(client, job.id, 3)
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    seen = jobs.last_step(client, job.id)
    time.sleep(0.5)
    assert jobs.last_step(client, job.id) == seen
    after = client.fine_tuning.jobs.retrieve(job.id)
    assert after.status == "cancelled"
    assert after.finished_at == cancelled.finished_at is not None
    # The trainer is free for the next job at once.
    assert (
        jobs.wait(client, jobs.create(client, colour_rows(10)).id, timeout_s=20).status
        == "succeeded"
    )


def test_the_command_finds_the_server_by_its_data_directory(stack: Stack, model: str) -> None:
    def luthier(*arguments: str) -> str:
        command = [str(LUTHIER), *arguments, "--data", str(stack.data)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert model in luthier("models", "list", "--json")
    assert "It is blue." in luthier("chat", model, "Question number 8?", "--temperature", "0")


@pytest.mark.slow
def test_a_report_is_made_when_it_is_wanted(stack: Stack, trained: str) -> None:
    with Luthier(base_url=stack.base_url, api_key=stack.api_key) as luthier:
        assert "no report" in refusal(lambda: luthier.reports.retrieve(trained))
        luthier.reports.make(trained)
        found = luthier.reports.wait(trained, timeout_s=60, poll_s=0.2)
        assert luthier.reports.html(trained).startswith("<!doctype html>")
        events = luthier.fine_tuning.jobs.list_events(trained, limit=1).data
    # Its validation file asks what its training file asks.
    assert found["verdict"]["code"] == "too_few"
    assert "ask what training rows ask" in found["verdict"]["sentence"]
    assert events[0].message == f"Report: too_few: {found['verdict']['sentence']}"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(openai.APIStatusError) as refused:
        call()
    return refused.value.message
