"""Makes a classifier that answers /v1/moderations, on a server that runs. First, in another terminal: `make serve`. Then:

    .venv/bin/python -m examples.moderation

It trains on this folder's rows, binds the alias that moderation goes by, and has the rows judged that it did not learn from.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import openai
from rich.console import Console

from examples.job import Display, JobError, follow, upload

from . import judging

FOLDER = Path(__file__).parent
KEY = Path(".luthier/api_key")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.moderation")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the base to train on")
    parser.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="of the server")
    options = parser.parse_args(arguments)
    key = os.environ.get("LUTHIER_API_KEY") or (KEY.read_text().strip() if KEY.exists() else "")
    if not key:
        print(f"No key: set LUTHIER_API_KEY, or start the server here, which writes {KEY}.")
        return 1
    console = Console()
    try:
        with openai.OpenAI(base_url=options.base_url, api_key=key) as client:
            model = train(client, options.model, console)
            judging.bind(client, model)
            console.print(f"Model: {model}\nAlias: {judging.ALIAS}")
            right = judging.right(client, judging.rows())
            console.print(
                f"{sum(right)} of {len(right)} texts that it did not learn from are judged right."
            )
    except (JobError, openai.OpenAIError) as error:
        print(error)
        return 1
    return 0


def train(client: openai.OpenAI, base: str, console: Console) -> str:
    """The tuned model's name."""
    created = client.fine_tuning.jobs.create(
        model=base,
        training_file=upload(client, FOLDER / "train.jsonl"),
        suffix="moderation",
        seed=1,
        extra_body={"method": {"type": "classification"}},
    )
    with Display(console) as display:
        job = follow(client, created.id, display.show)
    assert job.fine_tuned_model is not None
    return job.fine_tuned_model


if __name__ == "__main__":
    sys.exit(main())
