"""How long it takes from submitting a small job to a model that answers, beside TRL's script.

`python -m bench.submit --python PEER/bin/python` starts `luthier serve`, lets one job run so that the base is resident
as in a running service, and then measures by turns: Luthier from creating the job to the tuned model's first answer,
through the unmodified `openai` client; TRL from the start of its process to the saved adapter, in the fastest of its
layouts (see `bench.methods` for its environment). Both train LoRA of the same rank for one epoch on the same chats.

It also tells how long the job took from `running` to its first step: a job on a resident base should be quick there.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import torch

from examples.server import running
from modeling import importer
from modeling.base import choose_precision
from storage.models.base_models import Catalogue

from .peers import trl_process
from .train import BASE, bench_config, chat

RANK = 16
BATCH_SIZE = 8
POLL_S = 0.02
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Timing:
    """Seconds of a job, by the wall."""

    until_running: float
    until_first_step: float
    """From `running`."""
    until_succeeded: float
    until_answer: float
    """From the submission, as the one before."""


def submit(client: openai.OpenAI, rows: list[dict[str, Any]]) -> Timing:
    """Upload the rows, then time a job on them."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("chats.jsonl", content), purpose="fine-tune")
    began_s = time.perf_counter()
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file.id,
        seed=1,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": BATCH_SIZE}},
        },
        extra_body={"tuning": {"type": "lora", "rank": RANK}},
    )
    running_s = first_step_s = None
    while job.status != "succeeded":
        if job.status in ("failed", "cancelled"):
            raise SystemExit(f"the job ended as {job.status}: {job.error}")
        if time.perf_counter() - began_s > TIMEOUT_S:
            raise SystemExit(f"the job is {job.status} after {TIMEOUT_S:.0f} s")
        if job.status == "running" and running_s is None:
            running_s = time.perf_counter()
        if running_s is not None and first_step_s is None and _has_stepped(client, job.id):
            first_step_s = time.perf_counter()
        time.sleep(POLL_S)
        job = client.fine_tuning.jobs.retrieve(job.id)
    succeeded_s = time.perf_counter()
    assert job.fine_tuned_model
    client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1
    )
    answered_s = time.perf_counter()
    if running_s is None or first_step_s is None:
        raise SystemExit("the job was over before it was seen running; take more rows")
    return Timing(
        running_s - began_s, first_step_s - running_s, succeeded_s - began_s, answered_s - began_s
    )


def _has_stepped(client: openai.OpenAI, job_id: str) -> bool:
    events = client.fine_tuning.jobs.list_events(job_id, limit=5).data
    return any(event.type == "metrics" for event in events)


def write_prompts(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As TRL wants them: the loss is of the completion alone."""
    with path.open("w") as file:
        for row in rows:
            *prompt, answer = row["messages"]
            file.write(json.dumps({"prompt": prompt, "completion": [answer]}) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="of an environment with TRL")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2, help="of each, by turns")
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=trl_process.LAYOUTS,
        default=trl_process.LAYOUTS,
        help="of TRL's rows, to choose the fastest of",
    )
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(BASE)
    assert base is not None
    chance = random.Random(1)
    rounds = [[chat(chance) for _ in range(arguments.rows)] for _ in range(arguments.rounds)]
    with tempfile.TemporaryDirectory(prefix="bench-submit-") as directory:
        folder = Path(directory)
        base_path = importer.ensure_imported(base, folder / "luthier" / "bases")
        config = bench_config(base_path, batch_size=BATCH_SIZE, rank=RANK)
        told = trl_process.settings(
            config,
            choose_precision("auto"),
            write_prompts(folder / "prompts.jsonl", rounds[0]),
            folder / "theirs",
            "supervised",
        )
        # A bench's chat has about 80 tokens.
        told["tokens_per_step"] = 80 * BATCH_SIZE
        print(f"{BASE}, {told['dtype']}, {arguments.rows} chats, {torch.get_num_threads()} threads")
        told["layout"] = trl_process.best_layout(arguments.python, told, arguments.layouts)
        with running(folder / "luthier", "--base", BASE) as client:
            submit(client, [chat(chance) for _ in range(40)])
            ours: list[Timing] = []
            theirs: list[float] = []
            for rows in rounds:
                ours.append(submit(client, rows))
                write_prompts(folder / "prompts.jsonl", rows)
                theirs.append(trl_process.seconds_of_whole_run(arguments.python, told))
                print(f"luthier {ours[-1]}\nTRL {theirs[-1]:.1f} s", flush=True)
    ratio = statistics.median(b / a.until_answer for a, b in zip(ours, theirs, strict=True))
    print(
        f"submit to a model that answers: luthier {statistics.median(t.until_answer for t in ours):.1f} s, TRL "
        f"{statistics.median(theirs):.1f} s to a saved adapter: {ratio:.2f} times (the aim is 3); from running to "
        f"the first step {statistics.median(t.until_first_step for t in ours):.2f} s"
    )


if __name__ == "__main__":
    main()
