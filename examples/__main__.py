"""`make examples`: every method and every kind of what a job changes, on this machine, through the unmodified client.

Starts the server, and runs one example after the other: a line each, with what was measured before training and after
it, and whether that is as expected. What went on meanwhile is in `.examples/server.log`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import openai

from . import catalogue, server
from .catalogue import FOLDER, Example
from .job import JobError, Metrics, follow, upload
from .measures import Trained
from .outcome import Outcome, exit_status

OUTPUT_DIR = Path(".examples")
BASE = "smollm2-135m-instruct"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples")
    parser.add_argument("names", nargs="*", help="only these examples")
    try:
        examples = catalogue.named(parser.parse_args(arguments).names)
    except ValueError as error:
        parser.error(str(error))
    # So that the server is stopped whichever way the examples are.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started_s = time.monotonic()
    outcomes = []
    try:
        print(f"Starting the server (its log: {OUTPUT_DIR}/server.log) ...", flush=True)
        # A report would take the machine from the example that comes next.
        off = {"LUTHIER_REPORTS": "off"}
        with server.running(OUTPUT_DIR, "--base", BASE, env=off) as client:
            for example in examples:
                outcomes.append(run(client, BASE, example))
                print(outcomes[-1].line, flush=True)
    except server.ServerError as error:
        print(error)
        return 1
    except KeyboardInterrupt:
        print("Stopped.")
        return 130
    num_ok = sum(outcome.is_ok for outcome in outcomes)
    print(f"{num_ok} of {len(outcomes)} as expected, {time.monotonic() - started_s:.0f} s in all.")
    return exit_status(outcomes)


def run(client: openai.OpenAI, base: str, example: Example) -> Outcome:
    """Train and measure. What goes wrong is the outcome, so that the other examples run all the same."""
    started_s = time.monotonic()
    before = after = float("nan")
    problem = None
    try:
        before, after = example.measure(_train(client, base, example))
    except (JobError, openai.OpenAIError) as error:
        problem = str(error)
    seconds = time.monotonic() - started_s
    return Outcome(example.name, example.figure, example.bound, seconds, before, after, problem)


def _train(client: openai.OpenAI, base: str, example: Example) -> Trained:
    file_name = Path(example.training).name
    training = client.files.create(file=(file_name, example.content()), purpose="fine-tune")
    options = example.options
    if example.validation is not None:
        options["validation_file"] = upload(client, FOLDER / example.validation)
    created = client.fine_tuning.jobs.create(model=base, training_file=training.id, **options)
    steps: list[Metrics] = []
    job = follow(client, created.id, lambda event: steps.extend(_measured(event.data)))
    return Trained(client, base, job, steps)


def _measured(data: object) -> list[Metrics]:
    return [data] if isinstance(data, dict) and "train_loss" in data else []


if __name__ == "__main__":
    sys.exit(main())
