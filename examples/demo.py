"""`make demo`: the whole path on this machine, through the unmodified `openai` client.

Starts the server, measures the base model on mails it has not seen, fine-tunes it on
`support_mails/`, measures the tuned model on the same mails, talks to it, asks what fine-tuning did, and stops
everything. What it found is left in `.demo/results.json`, `.demo/loss.svg` and `.demo/report.html`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob, SupervisedHyperparametersParam
from rich.console import Console
from rich.table import Table

from luthier.reports import ReportNotReady, Reports, changed

from . import evaluate, plot, server, tickets
from .evaluate import Prompt, Scores
from .job import Display, JobError, Metrics, follow, upload
from .tickets import Example

OUTPUT_DIR = Path(".demo")
BASE = "smollm2-135m-instruct"
MODEL = "gpt-4o-mini"
"""The name that code written for OpenAI asks for; the server answers to it with BASE."""
HYPERPARAMETERS: SupervisedHyperparametersParam = {
    "n_epochs": 2,
    "batch_size": 8,
    "learning_rate_multiplier": 2,
}
SHOTS = (8, 16)
REPORT_TIMEOUT_S = 300.0
NUM_CHANGED = 3
"""Rows that are shown of what the report says."""
FRESH_MAIL = (
    "Hello, I've just unpacked the blender and there is a long crack in the jug. My sister's "
    "birthday is on Saturday and it was meant for her. Could you send another one before then?"
)


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    started_s = time.monotonic()
    # So that the server is stopped whichever way the demo is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        console.print(f"Starting the server (its log: {OUTPUT_DIR}/server.log) ...")
        alias = f"{MODEL}={BASE}"
        with server.running(OUTPUT_DIR, "--alias", alias) as client:
            results = _run(client, console)
    except (server.ServerError, JobError, openai.OpenAIError) as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        if not isinstance(error, server.ServerError):
            console.print(server.log_tail(OUTPUT_DIR / "server.log"), style="dim", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    results["seconds"]["total"] = round(time.monotonic() - started_s, 1)
    (OUTPUT_DIR / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    console.print(
        f"Done in {results['seconds']['total']:.0f} s. "
        f"Written: {OUTPUT_DIR}/results.json, {OUTPUT_DIR}/loss.svg, {OUTPUT_DIR}/report.html"
    )
    return 0


def _run(client: openai.OpenAI, console: Console) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    holdout = tickets.load("holdout")

    start_s = time.monotonic()
    console.rule("The base model")
    few_shot, tried = _best_few_shot(client, console)
    columns = {
        "base, zero-shot": _measure(client, console, MODEL, evaluate.ZERO_SHOT, holdout),
        f"base, {few_shot.name}": _measure(client, console, MODEL, few_shot, holdout),
    }
    seconds["base evaluation"] = time.monotonic() - start_s

    start_s = time.monotonic()
    console.rule("Fine-tuning")
    job, metrics = _train(client, console)
    seconds["training"] = time.monotonic() - start_s
    plot.loss_curve(metrics, OUTPUT_DIR / "loss.svg")

    start_s = time.monotonic()
    console.rule("The tuned model")
    assert job.fine_tuned_model is not None
    tuned = _measure(client, console, job.fine_tuned_model, evaluate.TUNED, holdout)
    columns["tuned"] = tuned
    seconds["tuned evaluation"] = time.monotonic() - start_s
    console.print(_table(columns))
    best = max(list(columns.values())[:2], key=lambda scores: scores.exact_match)
    console.print(gain(tuned, best))
    _chat(client, console, job.fine_tuned_model)

    start_s = time.monotonic()
    console.rule("What did fine-tuning do?")
    verdict = tell_report(client, console, job.id)
    seconds["report"] = time.monotonic() - start_s
    return {
        "base": BASE,
        "fine_tuned_model": job.fine_tuned_model,
        "hyperparameters": HYPERPARAMETERS,
        "trained_tokens": job.trained_tokens,
        "report": verdict,
        "num_holdout": len(holdout),
        "validation_exact_match_of_prompts": tried,
        "scores": {name: asdict(scores) for name, scores in columns.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "cpu_count": os.cpu_count(),
    }


def _best_few_shot(client: openai.OpenAI, console: Console) -> tuple[Prompt, dict[str, float]]:
    """The prompt that does best on the validation mails; the holdout has no say in it."""
    train, validation = tickets.load("train"), tickets.load("validation")
    prompts = [evaluate.few_shot(train, num_shots) for num_shots in SHOTS]
    tried = {
        prompt.name: _measure(client, console, MODEL, prompt, validation).exact_match
        for prompt in prompts
    }
    best = max(prompts, key=lambda prompt: tried[prompt.name])
    console.print(f"Best few-shot prompt on the validation mails: {best.name}")
    return best, tried


def _measure(
    client: openai.OpenAI, console: Console, model: str, prompt: Prompt, examples: Sequence[Example]
) -> Scores:
    start_s = time.monotonic()
    replies = evaluate.ask(client, model, prompt, examples)
    scores = evaluate.score(examples, replies)
    console.print(
        f"  {prompt.name}: {scores.exact_match:.0%} of {len(examples)} exact, "
        f"{scores.valid_json:.0%} valid JSON ({time.monotonic() - start_s:.0f} s)",
        highlight=False,
    )
    return scores


def _train(client: openai.OpenAI, console: Console) -> tuple[FineTuningJob, list[Metrics]]:
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=upload(client, tickets.DATA_DIR / "train.jsonl"),
        validation_file=upload(client, tickets.DATA_DIR / "validation.jsonl"),
        suffix="support",
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}},
    )
    with Display(console) as display:
        job = follow(client, job.id, display.show)
    return job, display.metrics


def _table(columns: dict[str, Scores]) -> Table:
    table = Table(title="Holdout")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    scores = list(columns.values())
    table.add_row("valid JSON", *(f"{s.valid_json:.0%}" for s in scores))
    table.add_row("exact match", *(f"{s.exact_match:.0%}" for s in scores), style="bold")
    for field in tickets.FIELDS:
        table.add_row(f"  {field}", *(f"{s.fields[field]:.0%}" for s in scores))
    table.add_row("prompt tokens per request", *(f"{s.prompt_tokens:.0f}" for s in scores))
    return table


def gain(tuned: Scores, best: Scores) -> str:
    """What the tuned model has before the base's best prompt, in one sentence."""
    points = 100 * (tuned.exact_match - best.exact_match)
    return (
        f"Exact matches: {points:+.0f} percentage points against the base's best prompt, "
        f"with {best.prompt_tokens - tuned.prompt_tokens:.0f} prompt tokens fewer per request."
    )


def tell_report(client: openai.OpenAI, console: Console, job_id: str) -> dict[str, str] | None:
    """The server's own answer, from rows of the validation file; None where it takes too long."""
    address = f"{client.base_url}luthier/fine_tuning/jobs/{job_id}/report.html"
    reports = Reports(client)
    try:
        report = reports.wait(job_id, timeout_s=REPORT_TIMEOUT_S)
    except ReportNotReady as error:
        console.print(f"{error}. It will be at {address}", markup=False, highlight=False)
        return None
    (OUTPUT_DIR / "report.html").write_text(reports.html(job_id), encoding="utf-8")
    verdict: dict[str, str] = report["verdict"]
    console.print(f"{verdict['code']}: {verdict['sentence']}", style="bold", markup=False)
    for line in changed(report, NUM_CHANGED):
        console.print(line, markup=False, highlight=False)
    console.print(f"The report: {address}, a copy in {OUTPUT_DIR}/report.html", highlight=False)
    return verdict


def _chat(client: openai.OpenAI, console: Console, model: str) -> None:
    console.rule("A chat")
    console.print(f"user: {FRESH_MAIL}", highlight=False)
    console.print(f"{model}: ", end="", highlight=False)
    stream = client.chat.completions.create(
        model=model,
        messages=evaluate.TUNED.messages(FRESH_MAIL),
        temperature=0,
        max_tokens=48,
        stream=True,
    )
    for chunk in stream:
        console.print(chunk.choices[0].delta.content or "", end="", highlight=False, markup=False)
    console.print()


if __name__ == "__main__":
    sys.exit(main())
