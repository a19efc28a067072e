"""Proves on a base's own template and tokenizer that what is learnt of a turn is that turn and no more."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from .chat_template import ChatTemplate
from .messages import ChatTemplateError, InvalidMessages, Message
from .tokenizer import TokenizerError

WORDS = ("qzone", "qztwo", "qzthree", "qzfour")
# Templates may refuse all but the first, by raising; what they render must be right.
CONVERSATIONS = (
    ("user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant"),
    ("assistant", "user", "assistant"),
    ("system", "assistant", "user"),
)


def check_turns(folder: Path) -> None:
    """Raises `ChatTemplateError` unless the turns of the base in `folder` can be learnt one by one."""
    try:
        template = ChatTemplate.load(folder)
    except TokenizerError as error:
        raise ChatTemplateError(str(error)) from error
    for position, roles in enumerate(CONVERSATIONS):
        messages = [
            {"role": role, "content": word} for role, word in zip(roles, WORDS, strict=False)
        ]
        try:
            _check(template, messages)
        except InvalidMessages:
            if position == 0:
                raise


def _check(template: ChatTemplate, messages: list[Message]) -> None:
    example = template.tokenize_chat(messages)
    pairs = zip(example.input_ids, example.weights, strict=True)
    spans = [[i for i, _ in span] for weight, span in groupby(pairs, lambda p: p[1]) if weight]
    turns = [m["content"] for m in messages if m["role"] == "assistant"]
    roles = " > ".join(m["role"] for m in messages)
    if len(spans) != len(turns):
        raise ChatTemplateError(
            f"the chat template does not keep the turns of {roles} apart, so that they cannot be learnt"
        )
    for span, turn in zip(spans, turns, strict=True):
        text = template.tokenizer.decode(span, skip_special=False)
        if [word for word in WORDS if word in text] != [turn]:
            raise ChatTemplateError(
                f"what would be learnt of {roles} is {text!r} where the turn is {turn!r}: the chat template "
                "and the base's end-of-turn tokens do not fit together"
            )
        if span[-1] not in template.tokenizer.eos_ids:
            raise ChatTemplateError(
                f"the chat template ends a turn with {text[-20:]!r}, which is none of the base's end tokens: "
                "the model would not learn to stop; name the end-of-turn token in generation_config.json, "
                "eos_token_id"
            )
