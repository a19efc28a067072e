"""The ticket that a support mail becomes: its fields, their values, and the one way to write it down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

Ticket = dict[str, str | bool]

#: Every field in the order in which it is written, with the values it can take.
FIELDS: dict[str, tuple[str | bool, ...]] = {
    "category": ("delivery", "defect", "billing", "return", "question", "account"),
    "product": ("kettle", "toaster", "blender", "grinder", "none"),
    "urgent": (True, False),
    "refund": (True, False),
}

DATA_DIR = Path(__file__).with_name("support_mails")


@dataclass(frozen=True)
class Example:
    """A mail and the ticket that a person made of it."""

    mail: str
    ticket: Ticket


def write(ticket: Ticket) -> str:
    """The ticket as one compact line of JSON, the fields in their order."""
    return json.dumps({name: ticket[name] for name in FIELDS}, separators=(",", ":"))


def read(text: str) -> Ticket | None:
    """The ticket in a model's reply, or None when the reply is anything but one JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def is_valid(ticket: Ticket) -> bool:
    """Whether it has exactly the fields, each with one of its values. Their order is left open."""
    # `in` alone would take 1 for True.
    return ticket.keys() == FIELDS.keys() and all(
        any(
            ticket[name] is value or (ticket[name] == value and isinstance(value, str))
            for value in values
        )
        for name, values in FIELDS.items()
    )


def load(split: str) -> list[Example]:
    """The examples of "train", "validation" or "holdout", in the order of the file."""
    examples = []
    for line in (DATA_DIR / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        mail, answer = (message["content"] for message in json.loads(line)["messages"][-2:])
        examples.append(Example(mail, json.loads(answer)))
    return examples
