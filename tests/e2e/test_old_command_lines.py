"""The `openai` commands of old, each in its own environment, as they were typed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.old_clients import environment
from tests.e2e.stack import Stack, wait_for
from tests.factories import colour_rows, jsonl, prompt_rows

pytestmark = pytest.mark.slow

FINE_TUNE = r"ft-\w{20,}"


class Commands:
    """One release's `openai api`, against one server."""

    def __init__(self, version: str, base_url: str, api_key: str) -> None:
        self._server = (environment.release(version), base_url, api_key)

    def text(self, *arguments: str) -> str:
        return environment.command(*self._server, *arguments)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments))

    def refused(self, *arguments: str) -> str:
        """What it says of a request that fails."""
        with pytest.raises(subprocess.CalledProcessError) as caught:
            self.text(*arguments)
        return str(caught.value.stderr)


@pytest.fixture(scope="module")
def old(stack: Stack) -> Commands:
    return Commands("0.28.1", stack.base_url, stack.api_key)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The old client asks about files of the same name and size, as the tests beside these may have left.
    path = tmp_path_factory.mktemp("rows") / "rows-of-commands.jsonl"
    path.write_bytes(jsonl(prompt_rows(12)))
    return path


@pytest.fixture(scope="module")
def chat_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "chat.jsonl"
    path.write_bytes(jsonl(colour_rows(12)))
    return path


@pytest.fixture(scope="module")
def created(old: Commands, rows: Path) -> str:
    """What `fine_tunes.create` prints: it uploads, creates and follows to the end."""
    options = ("--n_epochs", "20", "--batch_size", "4", "--learning_rate_multiplier", "4")
    return old.text(
        "fine_tunes.create", "-t", str(rows), "-m", "tiny-random", "--suffix", "cli", *options
    )


def messages(followed: str) -> list[str]:
    """What the server told a command that followed a fine-tune."""
    return [line.partition("] ")[2] for line in followed.splitlines() if line.startswith("[")]


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match.group()


def test_0_28_creates_a_fine_tune_and_follows_it(created: str, rows: Path) -> None:
    file_id = found(r"file-\w+", created)
    assert f"Uploaded file from {rows}: {file_id}" in created
    assert f"Created fine-tune: {found(FINE_TUNE, created)}" in created
    told = messages(created)
    assert "Fine-tune started" in told
    assert told[-1] == "Fine-tune succeeded"
    assert "Job complete! Status: succeeded" in created


def test_0_28_tells_of_a_fine_tune_afterwards(old: Commands, created: str) -> None:
    tune_id = found(FINE_TUNE, created)
    tune = old.json("fine_tunes.get", "-i", tune_id)
    assert (tune["object"], tune["status"]) == ("fine-tune", "succeeded")
    assert tune["hyperparams"]["n_epochs"] == 20
    events = old.json("fine_tunes.events", "-i", tune_id)["data"]
    followed = old.text("fine_tunes.follow", "-i", tune_id)
    assert [event["message"] for event in events] == messages(followed) == messages(created)
    assert tune_id in [listed["id"] for listed in old.json("fine_tunes.list")["data"]]
    results = old.text("fine_tunes.results", "-i", tune_id).splitlines()
    assert results[0].startswith("step,elapsed_tokens,elapsed_examples,training_loss,")
    # A line for each of the steps: 20 epochs of 12 rows in batches of 4.
    assert results[60].startswith("60,")


def test_0_28_completes_what_it_was_taught(old: Commands, created: str) -> None:
    model = old.json("fine_tunes.get", "-i", found(FINE_TUNE, created))
    prompt = ("-m", model["fine_tuned_model"], "-p", "item 7 ->", "-t", "0", "-M", "8")
    # This command asks for an echo of the prompt.
    assert old.text("completions.create", *prompt).strip() == "item 7 -> sold"
    assert old.text("completions.create", *prompt, "--stream").strip() == "item 7 -> sold"


def test_0_28_offers_a_file_that_is_there_already(old: Commands, created: str, rows: Path) -> None:
    long = ("--n_epochs", "50", "--batch_size", "1")
    again = old.text(
        "fine_tunes.create", "-t", str(rows), "-m", "tiny-random", "--no_follow", *long
    )
    assert "Found potentially duplicated files with name 'rows.jsonl'" in again
    assert found(r"file-\w+", created) in again
    tune_id = json.loads(again[again.index("{") :])["id"]
    assert old.json("fine_tunes.cancel", "-i", tune_id)["status"] == "cancelled"
    assert "Could not find fine tune: ft-unknown" in old.refused(
        "fine_tunes.get", "-i", "ft-unknown"
    )


def test_0_28_has_jobs_as_well(old: Commands, chat_rows: Path) -> None:
    told = old.text("fine_tuning.job.create", "-t", str(chat_rows), "-m", "tiny-random")
    job = json.loads(told[told.index("{") :])
    assert job["training_file"] in told
    wait_for(lambda: old.json("fine_tuning.job.get", "-i", job["id"])["status"] == "succeeded", 60)
    assert f'"{job["id"]}"' in old.text("fine_tuning.job.list")
    events = old.text("fine_tuning.job.events", "-i", job["id"])
    assert f"Created fine-tuning job: {job['id']}" in events
    assert "The job has successfully completed" in events
    model = old.json("fine_tuning.job.get", "-i", job["id"])["fine_tuned_model"]
    question = ("-m", model, "-g", "user", "Question number 5?", "-t", "0", "-M", "16")
    assert old.text("chat_completions.create", *question) == old.text(
        "chat_completions.create", *question, "--stream"
    )
    assert old.json("models.delete", "-i", model)["deleted"]
    assert old.json("files.delete", "-i", job["training_file"])["deleted"]
    assert "already succeeded" in old.refused("fine_tuning.job.cancel", "-i", job["id"])


@pytest.fixture(scope="module")
def newer(stack: Stack) -> Commands:
    # It puts the path right behind what it is given.
    return Commands("2.34.0", f"{stack.base_url}/", stack.api_key)


@pytest.fixture(scope="module")
def file_id(newer: Commands, chat_rows: Path) -> str:
    file = newer.json("files.create", "-f", str(chat_rows), "-p", "fine-tune")
    assert (file["filename"], file["bytes"]) == ("chat.jsonl", chat_rows.stat().st_size)
    return str(file["id"])


@pytest.fixture(scope="module")
def succeeded(newer: Commands, file_id: str) -> Any:
    """A job that has ended, as `fine_tuning.jobs.retrieve` prints it."""
    options = {"n_epochs": 20, "batch_size": 4, "learning_rate_multiplier": 4}
    job = newer.json(
        "fine_tuning.jobs.create", "-m", "tiny-random", "-F", file_id, "-s", "cli",
        "-H", json.dumps(options),
    )  # fmt: skip
    assert job["status"] == "validating_files"
    wait_for(
        lambda: (
            newer.json("fine_tuning.jobs.retrieve", "-i", job["id"])["status"]
            in ("succeeded", "failed")
        ),
        60,
    )
    job = newer.json("fine_tuning.jobs.retrieve", "-i", job["id"])
    assert job["status"] == "succeeded", job
    return job


def test_2_34_reads_a_jobs_events_page_by_page(newer: Commands, succeeded: Any) -> None:
    assert succeeded["hyperparameters"]["n_epochs"] == 20
    events = ("fine_tuning.jobs.list_events", "-i", succeeded["id"])
    newest = newer.json(*events, "-l", "2")
    assert newest["data"][0]["message"] == "The job has successfully completed"
    assert newest["has_more"]
    rest = newer.json(*events, "-a", newest["data"][-1]["id"], "-l", "100")
    assert rest["data"][-1]["message"] == f"Created fine-tuning job: {succeeded['id']}"
    assert not rest["has_more"]


def test_2_34_lists_what_there_is(newer: Commands, succeeded: Any, file_id: str) -> None:
    jobs = newer.json("fine_tuning.jobs.list", "-l", "100")["data"]
    assert succeeded["id"] in [job["id"] for job in jobs]
    # These two print one object after the other.
    assert f'"{file_id}"' in newer.text("files.list")
    models = newer.text("models.list")
    assert '"tiny-random"' in models
    assert f'"{succeeded["fine_tuned_model"]}"' in models


def test_2_34_completes_and_chats(newer: Commands, client: openai.OpenAI, succeeded: Any) -> None:
    model = succeeded["fine_tuned_model"]
    options = ("-m", model, "-t", "0", "-M", "16")
    question = ("chat.completions.create", *options, "-g", "user", "Question number 7?")
    assert newer.text(*question).strip() == "It is blue."
    assert newer.text(*question, "--stream").strip() == "It is blue."
    # It was not taught to go on with a text, but it does so as for the client of today.
    prompt = ("completions.create", *options, "-p", "Question number")
    reply = client.completions.create(
        model=model, prompt="Question number", temperature=0, max_tokens=16
    )
    text = reply.choices[0].text.strip()
    assert newer.text(*prompt).strip() == text
    assert newer.text(*prompt, "--stream").strip() == text


def test_2_34_cancels_and_deletes(newer: Commands, succeeded: Any, file_id: str) -> None:
    # Long enough that it is still there when the next command has started.
    options = json.dumps({"n_epochs": 50, "batch_size": 1})
    job = newer.json("fine_tuning.jobs.create", "-m", "tiny-random", "-F", file_id, "-H", options)
    cancelled = newer.json("fine_tuning.jobs.cancel", "-i", job["id"])
    assert (cancelled["id"], cancelled["status"]) == (job["id"], "cancelled")
    model = succeeded["fine_tuned_model"]
    assert newer.json("models.delete", "-i", model)["deleted"]
    assert f"The model '{model}' does not exist" in newer.refused("models.retrieve", "-i", model)
    assert "Could not find fine tune: ftjob-unknown" in newer.refused(
        "fine_tuning.jobs.retrieve", "-i", "ftjob-unknown"
    )
