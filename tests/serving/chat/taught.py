"""A model that was taught to call tools, from its row to its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.training import jobs
from tests.training.reports import checkpoints_of
from training.messages import Start

Json = dict[str, Any]

PARAMETERS: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


def call(number: int, city: str) -> Json:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"id": f"call_{number}", "type": "function", "function": function}


CHAT: list[Any] = [
    {"role": "user", "content": "Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [call(1, "Oslo")]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    {"role": "assistant", "content": "Rain."},
    {"role": "user", "content": "Both?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [call(2, "A"), call(3, "B")]},
]


def trained(base_path: Path, directory: Path) -> Path:
    """The files of an adapter of tiny-random, whose template knows no tools, that knows the chat by heart."""
    rows = directory / "rows.jsonl"
    rows.write_text(json.dumps({"messages": CHAT, "tools": TOOLS}) + "\n")
    config = jobs.config(
        base_path,
        rank=32,
        n_epochs=72,
        batch_size=1,
        learning_rate=2e-2,
        warmup_steps=3,
        max_seq_len=1600,
        micro_batch_tokens=1600,
    )
    (directory / "out").mkdir()
    job = Start(
        job_id="ftjob-1",
        config=config,
        training_set=str(jobs.tokenized(rows, base_path, max_seq_len=1600)),
        output_dir=str(directory / "out"),
    )
    return Path(checkpoints_of(list(jobs.run(job)))[-1].path) / "artifact"
