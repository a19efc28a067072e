"""What a classifier of this folder is worth: the texts of validation.jsonl, through `client.moderations`."""

from __future__ import annotations

import json
from pathlib import Path

import openai

ALIAS = "omni-moderation-latest"
SAFE = "safe"

Row = dict[str, str]


def rows() -> list[Row]:
    content = (Path(__file__).parent / "validation.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in content.splitlines()]


def bind(client: openai.OpenAI, model: str) -> None:
    """From now on it answers the project's moderations."""
    client.post("/luthier/aliases", body={"alias": ALIAS, "model": model}, cast_to=object)


def right(client: openai.OpenAI, rows: list[Row]) -> list[bool]:
    """Whether each is flagged that should be, and no other."""
    results = client.moderations.create(input=[row["text"] for row in rows]).results
    return [
        result.flagged == (row["label"] != SAFE) for result, row in zip(results, rows, strict=True)
    ]
