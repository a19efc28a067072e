"""What a single text may have wrong with it: marks of templates, broken encodings, what nobody sees, HTML, orders."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ftfy.badness import badness

from .triggers import Trigger

Look = Callable[[str], str | None]
"""What is wrong with the text, in words, or None."""


@dataclass(frozen=True)
class TextRule:
    code: str
    trigger: Trigger
    look: Look
    of_answers: bool = False
    """Whether only answers of the assistant are looked at."""


SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|endofprompt|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|end|>", "<|user|>", "<|assistant|>"),
)
"""Of the bases that are most used; where the job's base is known, its own are looked for as well."""

TEMPLATE_MARKS = re.compile(
    r"\[/?INST\]|<</?SYS>>|</?s>|<\|im_\w*|<(?:start|end)_of_turn>"
    r"|^#{2,3} (?:Instruction|Response|Input|Human|Assistant) ?:",
    re.MULTILINE,
)
CONTROLS = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u00ad\u200b\u2060-\u2064\ufeff]")
CARRIAGE_RETURNS = re.compile(r"\r\n?")
UNSEEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:of\s+)?(?:the\s+|your\s+|my\s+)?"
    r"(?:previous|above|prior|earlier|preceding)\s+(?:instruction|prompt|message|direction|rule|text)",
    re.IGNORECASE,
)
HTML = re.compile(
    r"</?(?:p|br|div|span|a|b|i|u|ul|ol|li|h[1-6]|table|tr|td|th|img|script|style|strong|em|html|body|font)"
    r"(?:\s[^<>]{0,200})?/?>|&(?:nbsp|amp|lt|gt|quot|#\d{2,5});",
    re.IGNORECASE,
)
REFUSALS = re.compile(
    r"\A\W*(?:i['\u2019]?m sorry,? but|sorry,? but|i (?:cannot|can['\u2019]?t|am unable to|am not able to|won['\u2019]?t) "
    r"(?:help|assist|provide|answer|comply|fulfil|do that|create|write|generate|engage|discuss|support)|i must decline)"
    r"|\bas an ai\b|\bas a (?:large )?language model\b",
    re.IGNORECASE,
)
_SHOWN_CHARS = 40
_REFUSES = (
    *(
        b" an AI",
        b" an ai",
        b"anguage model",
        b"m sorry",
        b"orry, but",
        b"orry but",
        b"I cannot ",
        b"I can't ",
    ),
    *(b"I can\xe2\x80\x99t ", b"I am un", b"I am not able", b"I won", b"I must decline"),
)
"""In the case in which they mostly begin a sentence."""


def rules(special_tokens: Collection[str] = ()) -> list[TextRule]:
    """Those of every file; `special_tokens` are the base's, if it is known."""
    specials = special_tokens_pattern(special_tokens)
    literals = tuple(t.encode() for t in special_tokens if len(t) > 2 and not t.startswith("<|"))
    return [
        TextRule("E301", Trigger((b"<|", *literals)), _shows(specials, "it holds {}")),
        TextRule(
            "W302",
            Trigger((b"INST]", b"SYS>>", b"<s>", b"</s>", b"<|im_", b"_of_turn>", b"## ")),
            _shows(TEMPLATE_MARKS, "it holds {}", besides=specials),
        ),
        TextRule("W402", Trigger((b"\\r",)), _carriage_returns),
        TextRule(
            "W403",
            Trigger(
                pattern=re.compile(
                    rb"\xc3[\x82-\xb4](?:\xc2[\x80-\xbf]|\xe2[\x80-\x84]|\xc5[\x92\x93\xa0\xa1\xb8\xbd\xbe]|\xc6\x92|\xcb)"
                    rb"|\xef\xbf\xbd"
                ),
                is_ascii=False,
            ),
            _mojibake,
        ),
        TextRule("W404", Trigger((b"\\u00", b"\\b", b"\\f", b"\x7f")), _controls),
        TextRule(
            "W404",
            Trigger(
                pattern=re.compile(rb"\xc2[\x80-\x9f\xad]|\xe2\x80\x8b|\xe2\x81[\xa0-\xa4]|\xef\xbb\xbf"),
                is_ascii=False,
            ),
            _controls,
        ),
        TextRule(
            "W405",
            Trigger((b"</", b"<br", b"<p>", b"<div", b"<img", b"&nbsp;", b"&amp;", b"&quot;", b"&lt;", b"&gt;", b"&#")),
            _html,
        ),
        TextRule("W513", Trigger(_REFUSES), _refusal, True),
        TextRule(
            "W603",
            Trigger((b"gnore ", b"isregard ", b"orget ", b"IGNORE ")),
            _shows(ORDERS, "it holds {}, which a model may take for an order"),
        ),
        TextRule(
            "W603",
            Trigger(pattern=re.compile(rb"\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]|\xf3\xa0[\x80\x81]"), is_ascii=False),
            _unseen,
        ),
    ]  # fmt: skip


def special_tokens_pattern(special_tokens: Collection[str] = ()) -> re.Pattern[str]:
    return _any_of({*SPECIAL_TOKENS, *(t for t in special_tokens if len(t) > 2)})


def _shows(pattern: re.Pattern[str], words: str, *, besides: re.Pattern[str] | None = None) -> Look:
    def look(text: str) -> str | None:
        for found in pattern.finditer(text):
            if besides is None or not besides.match(text, found.start()):
                return words.format(repr(found[0]))
        return None

    return look


def _any_of(words: Collection[str]) -> re.Pattern[str]:
    return re.compile(
        "|".join(re.escape(word) for word in sorted(words, key=lambda w: (-len(w), w)))
    )


def _carriage_returns(text: str) -> str | None:
    if "\r" not in text:
        return None
    num = text.count("\r")
    is_mixed = "\n" in text.replace("\r\n", "")
    return f"it holds {num} carriage return{'s' if num > 1 else ''}{', and line breaks without one' if is_mixed else ''}"


def _mojibake(text: str) -> str | None:
    if "\ufffd" in text:
        return f"it holds the sign for what could not be decoded: {excerpt(text, text.index(chr(0xFFFD)))}"
    if text.isascii() or not badness(text):
        return None
    place = next((i for i, c in enumerate(text) if "\xc2" <= c <= "\xf4"), 0)
    return f"it looks like UTF-8 that was read as another encoding: {excerpt(text, place)}"


def _controls(text: str) -> str | None:
    found = CONTROLS.findall(text)
    if not found:
        return None
    return (
        f"it holds U+{ord(found[0]):04X}{f' and {len(found) - 1} more' if len(found) > 1 else ''}"
    )


def _html(text: str) -> str | None:
    if "```" in text:
        return None
    found = HTML.search(text)
    return found and f"it holds {found[0][:_SHOWN_CHARS]!r}"


def _refusal(text: str) -> str | None:
    found = REFUSALS.search(text)
    return found and f"it says {found[0].strip()!r}"


def _unseen(text: str) -> str | None:
    found = UNSEEN.findall(text)
    return f"it holds U+{ord(found[0]):04X}, which nobody sees" if found else None


def excerpt(text: str, place: int = 0) -> str:
    """A little of the text around a place, in quotes, on one line."""
    start = max(place - _SHOWN_CHARS // 4, 0)
    shown = text[start : start + _SHOWN_CHARS]
    before, behind = "…" * (start > 0), "…" * (start + _SHOWN_CHARS < len(text))
    return f'"{before}{" ".join(shown.split())}{behind}"'
