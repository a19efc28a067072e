"""`python -m bench.first_token`: from a job's success to the tuned model's first token, over the whole stack.

A fresh embedded server trains small jobs one after the other, one of each kind of tuning in turn. Who waits for the job's end
asks the new model at once, in a stream; the base is asked in between, for what a first token takes anyway. The aim is
under a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import openai

from examples.server import running

NUM_ROWS = 24
POLL_S = 0.02
TIMEOUT_S = 600.0
TUNINGS: tuple[dict[str, Any], ...] = (
    {"type": "lora"},
    {"type": "prefix"},
    {"type": "output_layers", "blocks": 1},
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.first_token", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=[t["type"] for t in TUNINGS])
    arguments = parser.parse_args()
    tunings = [tuning for tuning in TUNINGS if tuning["type"] in arguments.kinds]
    found: dict[str, list[float]] = {tuning["type"]: [] for tuning in tunings}
    of_base: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-first-token-") as folder,
        running(Path(folder), "--base", arguments.base) as client,
    ):
        file = client.files.create(file=("rows.jsonl", _rows()), purpose="fine-tune")
        for number in range(arguments.rounds):
            for tuning in tunings:
                model, succeeded_s = _train(client, arguments.base, file.id, tuning, seed=number)
                found[tuning["type"]].append(_first_token_at(client, model) - succeeded_s)
                asked_s = time.perf_counter()
                of_base.append(_first_token_at(client, arguments.base) - asked_s)
    told = {
        "load": round(os.getloadavg()[0], 1),
        "base, s": _told(of_base),
        "from success to first token, s": {kind: _told(seconds) for kind, seconds in found.items()},
    }
    print(json.dumps(told, indent=1))


def _train(
    client: openai.OpenAI, base: str, file_id: str, tuning: dict[str, Any], *, seed: int
) -> tuple[str, float]:
    """The model, and when its job was seen to have succeeded."""
    job = client.fine_tuning.jobs.create(
        model=base,
        training_file=file_id,
        seed=seed,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}},
        },
        extra_body={"tuning": tuning},
    )
    until_s = time.perf_counter() + TIMEOUT_S
    while job.status != "succeeded":
        if job.status in ("failed", "cancelled") or time.perf_counter() > until_s:
            raise SystemExit(f"the job is {job.status}: {job.error}")
        time.sleep(POLL_S)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.fine_tuned_model
    return job.fine_tuned_model, time.perf_counter()


def _first_token_at(client: openai.OpenAI, model: str) -> float:
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2, stream=True
    )
    with stream:
        for chunk in stream:
            if chunk.choices and (chunk.choices[0].delta.content or chunk.choices[0].finish_reason):
                return time.perf_counter()
    raise SystemExit(f"{model} says nothing")


def _told(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 3),
        "worst": round(max(seconds), 3),
    }


def _rows() -> bytes:
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"What is {number} and {number + 1}?"},
                {"role": "assistant", "content": f"{2 * number + 1}"},
            ]
        }
        for number in range(NUM_ROWS)
    )
    return "\n".join(map(json.dumps, rows)).encode()


if __name__ == "__main__":
    main()
