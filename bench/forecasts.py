"""How well forecasts of time hold: small jobs of many kinds, one after the other, and what their forecasts had said.

`python -m bench.forecasts` starts `luthier serve` on a fresh data directory with the default base and tiny-random, lets some jobs run
that forecasts can learn from, and then holds twenty more against theirs, as `/v1/luthier/forecasts/calibration` counts them. The nominal
80 % interval should hold 70 to 95 % of them. What was forecast of a job is not changed afterwards, so its misses stay.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.server import running
from grading.statistics import wilson
from luthier import Luthier
from luthier.forecasts import Forecast

from .train import BASE, chat

TINY = "tiny-random"
POLL_S = 0.1
TIMEOUT_S = 300.0
NOMINAL = 0.8

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    method: str = "supervised"
    tuning: Json | None = None
    is_validated: bool = False


CASES = (
    Case("lora", BASE),
    Case("lora", TINY),
    Case("lora, validated", BASE, is_validated=True),
    Case("dpo", TINY, "dpo"),
    Case("lora", BASE),
    Case("full", TINY, tuning={"type": "full"}),
    Case("prefix", TINY, tuning={"type": "prefix"}),
    Case("text", BASE, "unsupervised"),
    Case("lora", TINY),
    Case("blocks", BASE, tuning={"type": "output_layers"}),
)


def rows(case: Case, number: int, chance: random.Random) -> list[Json]:
    if case.method == "unsupervised":
        return [
            {"text": " ".join(m["content"] for m in chat(chance)["messages"])}
            for _ in range(number)
        ]
    if case.method == "dpo":
        return [_pair(chance) for _ in range(number)]
    return [chat(chance) for _ in range(number)]


def _pair(chance: random.Random) -> Json:
    *prompt, answer = chat(chance)["messages"]
    return {
        "input": {"messages": prompt},
        "preferred_output": [answer],
        "non_preferred_output": [chat(chance)["messages"][-1]],
    }


def run(client: Luthier, case: Case, chance: random.Random) -> Forecast:
    """The job's own, once it has ended."""
    number = chance.choice((12, 24, 48))
    if case.model == TINY:
        number *= 4
    hyperparameters: Json = {
        "n_epochs": chance.choice((1, 2)),
        "batch_size": chance.choice((2, 4, 8)),
        # What comes after a job would be felt by the next one.
        "luthier": {"report": "off"},
    }
    asked: Json = {
        "method": {"type": case.method, case.method: {"hyperparameters": hyperparameters}}
    }
    if case.is_validated:
        asked["validation_file"] = _upload(client, rows(case, 12, chance))
    body = {"tuning": case.tuning} if case.tuning else {}
    job = client.fine_tuning.jobs.create(
        model=case.model,
        training_file=_upload(client, rows(case, number, chance)),
        seed=1,
        extra_body=body,
        **asked,
    )
    deadline = time.monotonic() + TIMEOUT_S
    while job.status not in ("succeeded", "failed", "cancelled"):
        if time.monotonic() > deadline:
            raise SystemExit(f"the job is {job.status} after {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise SystemExit(f"the job ended as {job.status}: {job.error}")
    forecast_id = job.to_dict()["forecast"]["id"]  # type: ignore[index]
    return client.forecasts.retrieve(forecast_id)


def _upload(client: Luthier, content: list[Json]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in content).encode()
    return client.files.create(file=("rows.jsonl", lines), purpose="fine-tune").id


@contextmanager
def _serving(folder: Path) -> Iterator[Luthier]:
    with running(folder, "--base", BASE, "--base", TINY) as client:
        yield Luthier(base_url=str(client.base_url), api_key=client.api_key)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", type=int, default=10, help="jobs to learn from")
    parser.add_argument("--jobs", type=int, default=20, help="jobs that are held against theirs")
    arguments = parser.parse_args()
    chance = random.Random(1)
    began_s = time.monotonic()
    num_inside = num_wide = 0
    ratios: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-forecasts-") as directory,
        _serving(Path(directory) / "luthier") as client,
    ):
        for number in range(arguments.before + arguments.jobs):
            case = CASES[number % len(CASES)]
            made = run(client, case, chance)
            assert made.forecast is not None
            assert made.outcome is not None
            assert made.outcome.seconds is not None
            told, taken = made.forecast["seconds"], made.outcome.seconds
            is_inside = told["p10"] <= taken <= told["p90"]
            is_counting = number >= arguments.before
            print(
                f"{number + 1:3} {case.name:16} {case.model:22} {told['p10']:7.1f} {told['p50']:7.1f} "
                f"{told['p90']:7.1f} s forecast ({told['basis']['interval']}), {taken:7.1f} s taken"
                f"{'' if is_inside else ', missed'}{'' if is_counting else ' (to learn from)'}",
                flush=True,
            )
            if is_counting and made.outcome.is_counted:
                num_inside += is_inside
                num_wide += told["p05"] <= taken <= told["p95"]
                ratios.append(taken / told["p50"])
        shown = client.forecasts.calibration()
    held = wilson(num_inside, len(ratios))
    ratios.sort()
    print(
        f"the nominal {NOMINAL:.0%} interval held {held.value:.0%} of {len(ratios)} jobs (95 %: {held.low:.0%} to {held.high:.0%}; the "
        f"aim is 70 to 95 %), the nominal 90 % {num_wide / len(ratios):.0%}; taken to forecast, median {ratios[len(ratios) // 2]:.2f}, "
        f"from {ratios[0]:.2f} to {ratios[-1]:.2f}; {time.monotonic() - began_s:.0f} s. The page counts {shown.num_inside} of "
        f"{shown.num_jobs}, those to learn from among them"
    )


if __name__ == "__main__":
    main()
