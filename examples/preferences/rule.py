"""Makes this folder's rows: `python -m examples.preferences.rule`.

To each mail of support_mails two replies that say the same. Which one is preferred, the rule below says and nothing
else: the kind one, in sentences that address the writer. Nobody was asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]

FOLDER = Path(__file__).parent
MAILS = FOLDER.parent / "support_mails"
NUM_ROWS = {"train": 100, "validation": 24}

SYSTEM = "Reply to the mail."
MATTERS = {
    "delivery": ("where your parcel is", "parcel whereabouts"),
    "defect": ("what is wrong with it", "fault to be examined"),
    "billing": ("what was charged", "charges to be examined"),
    "return": ("how you can send it back", "return to be arranged"),
    "question": ("what you would like to know", "question to be answered"),
    "account": ("what is the matter with your account", "account to be examined"),
}
"""What a ticket's category is called in a kind reply, and in a curt one."""
GREETINGS = ("Thank you for writing to us", "Thanks for your mail", "Thank you for telling us")
RECEIPTS = ("Mail received and filed", "Message noted and filed", "Request logged and filed")
PROMISES = ("I will find out {} and answer you", "I am looking into {} and will write to you")
PROCEDURES = ("{}. Processing by the department, reply", "{}. Handling by the team, answer")
ENDS = ("Please write again if I can do more for you.", "I am glad to help if there is more.")
CURT_ENDS = ("No further mails until then, they delay things.", "Repeated mails will not be read.")


def replies(ticket: Json, number: int) -> tuple[str, str]:
    """A kind and a curt one, of about the same length and with the same facts."""
    matter, fact = MATTERS[ticket["category"]]
    when = "today" if ticket["urgent"] else "within two days"
    product = "" if ticket["product"] == "none" else f" about the {ticket['product']}"
    kind = (
        f"{_pick(GREETINGS, number)}{product}. {_pick(PROMISES, number).format(matter)} {when}. "
        f"{_pick(ENDS, number)}"
    )
    curt = (
        f"{_pick(RECEIPTS, number)}{product}. {_pick(PROCEDURES, number).format(fact.capitalize())} "
        f"{when}. {_pick(CURT_ENDS, number)}"
    )
    return kind, curt


def rows(split: str) -> list[Json]:
    found = []
    with (MAILS / f"{split}.jsonl").open(encoding="utf-8") as mails:
        for number, line in enumerate(list(mails)[: NUM_ROWS[split]]):
            _, mail, answer = json.loads(line)["messages"]
            kind, curt = replies(json.loads(answer["content"]), number)
            messages = [{"role": "system", "content": SYSTEM}, mail]
            found.append(
                {
                    "input": {"messages": messages},
                    "preferred_output": [{"role": "assistant", "content": kind}],
                    "non_preferred_output": [{"role": "assistant", "content": curt}],
                }
            )
    return found


def text(split: str) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(split))


def _pick(phrases: tuple[str, ...], number: int) -> str:
    return phrases[number % len(phrases)]


if __name__ == "__main__":
    for name in NUM_ROWS:
        (FOLDER / f"{name}.jsonl").write_text(text(name), encoding="utf-8")
