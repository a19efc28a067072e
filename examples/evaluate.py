"""Ask a model for the tickets of many mails, and count how many it gets right.

The same measure for every model: a reply counts when it parses as JSON as it stands, and is exact
when all fields agree with the ticket that a person wrote. Spaces and the order of fields are
forgiven, so that a model which was only told the format is not judged by its layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean

import openai
from openai.types.chat import ChatCompletionMessageParam

from . import tickets
from .tickets import FIELDS, Example, Ticket

SHORT_INSTRUCTION = "Extract the ticket as JSON."
"""The system message of the training data: all that the tuned model is told."""

FULL_INSTRUCTION = """\
You sort mails to a shop for kitchen machines. You answer with one line of JSON and nothing else. Fill in this JSON:
{"category": delivery, defect, billing, return, question or account, \
"product": kettle, toaster, blender, grinder or none, \
"urgent": true if the mail sets a deadline or reports a danger, else false, \
"refund": true if the mail asks for money back, else false}
For example: {"category":"billing","product":"none","urgent":false,"refund":true}"""
"""What the base model is told. Of the wordings tried on validation mails, longer ones with every rule
spelled out among them, this form has it answer in JSON most often."""

Messages = list[ChatCompletionMessageParam]


@dataclass(frozen=True)
class Prompt:
    """How a model is asked: an instruction, worked examples as earlier turns, then the mail."""

    name: str
    instruction: str
    shots: tuple[Example, ...] = ()
    template: str = "%s"
    """What is said around each mail."""

    def messages(self, mail: str) -> Messages:
        """The conversation whose next turn is the ticket of `mail`."""
        messages: Messages = [{"role": "system", "content": self.instruction}]
        for shot in self.shots:
            messages.append({"role": "user", "content": self.template % shot.mail})
            messages.append({"role": "assistant", "content": tickets.write(shot.ticket)})
        messages.append({"role": "user", "content": self.template % mail})
        return messages


@dataclass(frozen=True)
class Reply:
    text: str
    prompt_tokens: int


@dataclass(frozen=True)
class Scores:
    """Shares between 0 and 1 over all examples; tokens are the mean of a request."""

    valid_json: float
    exact_match: float
    fields: dict[str, float]
    prompt_tokens: float


TUNED = Prompt("tuned", SHORT_INSTRUCTION)
ZERO_SHOT = Prompt("zero-shot", FULL_INSTRUCTION, template="Mail: %s\n\nJSON:")


def few_shot(examples: Sequence[Example], num_shots: int) -> Prompt:
    """The zero-shot prompt with worked examples that show many different values."""
    shots = tuple(_diverse(examples, num_shots))
    return replace(ZERO_SHOT, name=f"few-shot ({num_shots})", shots=shots)


def _diverse(examples: Sequence[Example], num_shots: int) -> list[Example]:
    # Greedy: next comes the example whose values have been shown least often so far.
    shown: dict[tuple[str, str | bool], int] = {}
    chosen: list[Example] = []
    for _ in range(num_shots):
        rest = [example for example in examples if example not in chosen]
        best = min(rest, key=lambda e: sum(shown.get(item, 0) for item in e.ticket.items()))
        chosen.append(best)
        for item in best.ticket.items():
            shown[item] = shown.get(item, 0) + 1
    return chosen


def ask(
    client: openai.OpenAI,
    model: str,
    prompt: Prompt,
    examples: Sequence[Example],
    *,
    concurrency: int = 64,
) -> list[Reply]:
    """The model's replies, greedily decoded, in the order of the examples."""

    def one(example: Example) -> Reply:
        completion = client.chat.completions.create(
            model=model,
            messages=prompt.messages(example.mail),
            temperature=0,
            max_tokens=40,
            # Spares the base what it likes to add after the ticket.
            stop="\n\n",
        )
        assert completion.usage is not None
        return Reply(completion.choices[0].message.content or "", completion.usage.prompt_tokens)

    # The first goes alone: once the server has read the part that all prompts share, it reuses it.
    first = one(examples[0])
    with ThreadPoolExecutor(concurrency) as pool:
        return [first, *pool.map(one, examples[1:])]


def score(examples: Sequence[Example], replies: Sequence[Reply]) -> Scores:
    """What share of the replies is right, as a whole and field by field."""
    read = [tickets.read(reply.text) for reply in replies]
    pairs = list(zip(read, (example.ticket for example in examples), strict=True))
    return Scores(
        valid_json=fmean(ticket is not None for ticket in read),
        exact_match=fmean(ticket is not None and _same(ticket, wanted) for ticket, wanted in pairs),
        fields={
            name: fmean(_agrees(ticket, wanted, name) for ticket, wanted in pairs)
            for name in FIELDS
        },
        prompt_tokens=fmean(reply.prompt_tokens for reply in replies),
    )


def _same(ticket: Ticket, wanted: Ticket) -> bool:
    return ticket.keys() == wanted.keys() and all(_agrees(ticket, wanted, name) for name in wanted)


def _agrees(ticket: Ticket | None, wanted: Ticket, name: str) -> bool:
    # The type counts: in Python 1 == True, in JSON it is something else.
    value = None if ticket is None else ticket.get(name)
    return type(value) is type(wanted[name]) and value == wanted[name]
