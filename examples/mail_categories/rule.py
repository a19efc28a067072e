"""Makes this folder's rows: `python -m examples.mail_categories.rule`.

Each mail of support_mails with the category of its ticket, which a person gave it. Nothing else is added.
"""

from __future__ import annotations

import json
from pathlib import Path

from examples import tickets

FOLDER = Path(__file__).parent
SPLITS = {"train": "train", "validation": "holdout"}
"""File -> the file of support_mails that it is made of."""


def text(split: str) -> str:
    """What the file holds."""
    rows = (
        {"text": example.mail, "label": example.ticket["category"]}
        for example in tickets.load(SPLITS[split])
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    for name in SPLITS:
        (FOLDER / f"{name}.jsonl").write_text(text(name), encoding="utf-8")
