"""Makes this folder's texts: `python -m examples.case_notes.rule`.

Each mail of support_mails as the note that a support desk would file: always the same form, filled in from the mail and
the ticket that a person made of it. Nothing else is added.
"""

from __future__ import annotations

from pathlib import Path

from examples import tickets
from examples.tickets import Example

FOLDER = Path(__file__).parent
NUM_NOTES = {"train": 96, "validation": 24}
"""The first ones of support_mails' files of the same names."""
BETWEEN = "\n<|endoftext|>\n"
"""Between two documents of a text file."""

DESKS = {
    "delivery": "parcels",
    "defect": "repairs",
    "billing": "accounts",
    "return": "returns",
    "question": "advice",
    "account": "members",
}
"""Who deals with the tickets of a category."""


def note(example: Example, number: int) -> str:
    """The `number`th one, counted from 1."""
    ticket = example.ticket
    when = "before the shop closes" if ticket["urgent"] else "within two working days"
    machine = "no machine" if ticket["product"] == "none" else f"the {ticket['product']}"
    money = "money is to be paid back" if ticket["refund"] else "no money is asked for"
    return (
        f"Note no. {number} of the support desk\n"
        f"Desk: {DESKS[str(ticket['category'])]}\n"
        f"Mail: {example.mail}\n"
        f"Finding: it concerns {machine}, and {money}. To be answered {when}."
    )


def notes(split: str) -> list[str]:
    examples = tickets.load(split)[: NUM_NOTES[split]]
    return [note(example, number) for number, example in enumerate(examples, 1)]


def text(split: str) -> str:
    """What the file holds."""
    return BETWEEN.join(notes(split)) + "\n"


if __name__ == "__main__":
    for name in NUM_NOTES:
        (FOLDER / f"{name}.txt").write_text(text(name), encoding="utf-8")
