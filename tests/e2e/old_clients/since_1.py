"""The whole way with an `openai` since 1.0. Run by that release's Python; argument: a JSONL file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai


def say(subject: str, what: object) -> None:
    sys.stdout.write(json.dumps({subject: what}) + "\n")
    sys.stdout.flush()


def follow(client: openai.OpenAI, job_id: str) -> list[str]:
    """The messages of a job that has ended, oldest first."""
    deadline = time.monotonic() + 60
    seen: dict[str, str] = {}
    while True:
        ended = client.fine_tuning.jobs.retrieve(job_id).status in ("succeeded", "failed")
        # Newest first, and more than a page of them.
        newest = client.fine_tuning.jobs.list_events(job_id, limit=5)
        unseen = [event for event in newest if event.id not in seen]
        seen.update((event.id, event.message) for event in reversed(unseen))
        if ended:
            return list(seen.values())
        if time.monotonic() > deadline:
            raise TimeoutError(job_id)
        time.sleep(0.1)


def streamed(client: openai.OpenAI, question: dict[str, Any]) -> str:
    text = ""
    for chunk in client.chat.completions.create(**question, stream=True):
        text += chunk.choices[0].delta.content or ""
    return text


def main(path: Path) -> None:
    client = openai.OpenAI(max_retries=0)
    say("version", openai.__version__)
    file = client.files.create(file=path, purpose="fine-tune")
    say("file", [file.filename, file.purpose, file.bytes, file.status])
    say("content", client.files.content(file.id).text)
    hyperparameters: Any = {"n_epochs": 12, "batch_size": 4, "learning_rate_multiplier": 4}
    job = client.fine_tuning.jobs.create(
        model="tiny-random",
        training_file=file.id,
        hyperparameters=hyperparameters,
        suffix="old-code",
        seed=7,
    )
    say("created", [job.object, job.status, job.fine_tuned_model])
    say("events", follow(client, job.id))
    job = client.fine_tuning.jobs.retrieve(job.id)
    say("finished", [job.status, job.fine_tuned_model, job.trained_tokens])
    model = job.fine_tuned_model
    if model is None:
        raise RuntimeError(job.error)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    say("checkpoints", [c.step_number for c in checkpoints])
    say("models", [m.id for m in client.models.list()])

    question: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Question number 3?"}],
        "temperature": 0,
        "max_tokens": 16,
    }
    reply = client.chat.completions.create(**question)
    say("reply", [reply.choices[0].message.content, reply.choices[0].finish_reason])
    say("streamed", streamed(client, question))
    raw = client.chat.completions.with_raw_response.create(**question)
    say("raw", raw.parse().choices[0].message.content)

    epochs: Any = {"n_epochs": 50, "batch_size": 1}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": epochs}}
    other = client.fine_tuning.jobs.create(
        model="tiny-random", training_file=file.id, method=method
    )
    say("cancelled", client.fine_tuning.jobs.cancel(other.id).status)
    say("after", client.fine_tuning.jobs.retrieve(other.id).status)
    listed = [found.id for found in client.fine_tuning.jobs.list(limit=1)]
    say("listed", [listed.index(other.id), listed.index(job.id), len(listed) - len(set(listed))])

    say("file_deleted", client.files.delete(file.id).deleted)
    say("model_deleted", client.models.delete(model).deleted)
    requests: dict[str, Callable[[], object]] = {
        "job": lambda: client.fine_tuning.jobs.retrieve("ftjob-unknown"),
        "file": lambda: client.files.retrieve(file.id),
        "model": lambda: client.chat.completions.create(**question),
        "body": lambda: client.fine_tuning.jobs.create(model="tiny-random", training_file=file.id),
        "key": lambda: client.with_options(api_key="sk-wrong").models.list(),
    }
    errors = {}
    for name, ask in requests.items():
        try:
            ask()
        except openai.APIStatusError as error:
            errors[name] = [type(error).__name__, error.code, error.param]
    say("errors", errors)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
