"""The whole way with openai 0.28, in both of its APIs. Run by its own Python; arguments: two JSONL files.

The first has chat rows, for FineTuningJob; the second has prompts and completions, for FineTune.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The release that mypy sees is another one.
openai: Any = importlib.import_module("openai")


def say(subject: str, what: object) -> None:
    sys.stdout.write(json.dumps({subject: what}) + "\n")
    sys.stdout.flush()


def upload(path: str) -> Any:
    with Path(path).open("rb") as rows:
        return openai.File.create(
            file=rows, purpose="fine-tune", user_provided_filename=Path(path).name
        )


def wait(job_id: str) -> Any:
    """The FineTuningJob once it has ended: this API has no stream."""
    deadline = time.monotonic() + 60
    while True:
        job = openai.FineTuningJob.retrieve(job_id)
        if job.status in ("succeeded", "failed"):
            return job
        if time.monotonic() > deadline:
            raise TimeoutError(job_id)
        time.sleep(0.1)


def error_of(ask: Callable[[], object]) -> list[object]:
    try:
        ask()
    except openai.error.OpenAIError as error:
        told = error.json_body["error"]
        return [type(error).__name__, error.http_status, told["code"], told["param"]]
    return []


def fine_tuning_job(file_id: str) -> str:
    """The API of its time. Gives the tuned model."""
    job = openai.FineTuningJob.create(
        model="tiny-random",
        training_file=file_id,
        hyperparameters={"n_epochs": 12, "batch_size": 4, "learning_rate_multiplier": 4},
        suffix="old-code",
        seed=7,
    )
    say("job_created", [job.object, job.status])
    done = wait(job.id)
    say("job_finished", [done.status, done.fine_tuned_model])
    newest = openai.FineTuningJob.list_events(job.id, limit=2)
    say("job_events", [event["message"] for event in newest["data"]])
    other = openai.FineTuningJob.create(
        model="tiny-random", training_file=file_id, hyperparameters={"n_epochs": 50}
    )
    say("job_cancelled", openai.FineTuningJob.cancel(other.id).status)
    listed = [found.id for found in openai.FineTuningJob.auto_paging_iter(limit=1)]
    say("jobs", [listed.index(other.id), listed.index(job.id), len(listed) - len(set(listed))])
    return str(done.fine_tuned_model)


def chat(model: str) -> None:
    question: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Question number 3?"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    reply = openai.ChatCompletion.create(**question)
    say("chat", reply.choices[0].message.content)
    chunks = openai.ChatCompletion.create(**question, stream=True)
    say("chat_streamed", "".join(c.choices[0].delta.get("content", "") for c in chunks))
    # With aiohttp instead of requests.
    reply = asyncio.run(openai.ChatCompletion.acreate(**question))
    say("chat_async", reply.choices[0].message.content)


def fine_tune(file_id: str) -> str:
    """The API before that. Gives the tuned model."""
    job = openai.FineTune.create(
        model="tiny-random",
        training_file=file_id,
        n_epochs=20,
        batch_size=4,
        learning_rate_multiplier=4,
        suffix="old-code",
    )
    say("tune_created", [job.object, job.status, [file.id for file in job.training_files]])
    say("tune_streamed", [event.message for event in openai.FineTune.stream_events(job.id)])
    done = openai.FineTune.retrieve(job.id)
    say("tune_finished", [done.status, done.fine_tuned_model])
    say("tune_events", [event.message for event in openai.FineTune.list_events(job.id).data])
    results = openai.File.download(done.result_files[0].id).decode()
    say("tune_results", results.splitlines())
    other = openai.FineTune.create(model="tiny-random", training_file=file_id, n_epochs=50)
    say("tune_cancelled", openai.FineTune.cancel(other.id).status)
    listed = [found.id for found in openai.FineTune.list().data]
    say("tunes", [listed.index(job.id) < listed.index(other.id), len(listed) - len(set(listed))])
    return str(done.fine_tuned_model)


def complete(model: str) -> None:
    prompt: dict[str, Any] = {
        "model": model, "prompt": "item 3 ->", "temperature": 0, "max_tokens": 8
    }  # fmt: skip
    say("text", openai.Completion.create(**prompt).choices[0].text)
    parts = openai.Completion.create(**prompt, stream=True)
    say("text_streamed", "".join(part.choices[0].text for part in parts))


def main(chat_rows: str, prompt_rows: str) -> None:
    say("version", openai.version.VERSION)
    files = [upload(chat_rows), upload(prompt_rows)]
    say("files", [[file.filename, file.purpose, file.status] for file in files])
    tuned = fine_tuning_job(files[0].id)
    chat(tuned)
    finished = fine_tune(files[1].id)
    complete(finished)
    say("models", [model.id for model in openai.Model.list().data])
    say("deleted", [openai.File.delete(file.id).deleted for file in files])
    say("models_deleted", [openai.Model.delete(model).deleted for model in (tuned, finished)])
    say(
        "errors",
        {
            "job": error_of(lambda: openai.FineTuningJob.retrieve("ftjob-unknown")),
            "tune": error_of(lambda: openai.FineTune.retrieve("ft-unknown")),
            "stream": error_of(lambda: openai.FineTune.stream_events("ft-unknown")),
            "file": error_of(lambda: openai.File.retrieve(files[0].id)),
            "text": error_of(lambda: openai.Completion.create(model=finished, prompt="Hello")),
            "key": error_of(lambda: openai.Model.list(api_key="sk-wrong")),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
