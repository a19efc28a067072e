"""Which form a file's rows have: its first row decides, among those that a method learns from."""

from __future__ import annotations

from itertools import islice

from . import chat, completion, raw_text
from .row_format import Problem, Row, RowFormat

OF_METHOD: dict[str, tuple[RowFormat, ...]] = {
    "supervised": (chat, completion),
    "unsupervised": (raw_text,),
}
"""A new form is a line here."""

_PREFERENCE_KEYS = frozenset({"preferred_output", "non_preferred_output"})
# Rows of other tools, by keys that they have together, and how to mend them.
_FOREIGN = (
    (
        {"instruction", "output"},
        "These are Alpaca rows (instruction, input, output). Write each as "
        '{"messages": [{"role": "user", "content": instruction and input}, '
        '{"role": "assistant", "content": output}]}.',
    ),
    (
        {"conversations"},
        "These are ShareGPT rows (conversations). Write each as "
        '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}: '
        '"from" becomes "role" (human is user, gpt is assistant), "value" becomes "content".',
    ),
    (
        {"chosen", "rejected"},
        "These are preference rows (chosen, rejected), which supervised fine-tuning does not learn from. "
        'Write the answers to learn as {"messages": [...]}.',
    ),
    (
        {"text"},
        "These are rows of raw text, which the method 'unsupervised' learns from. For supervised fine-tuning "
        'write each as {"prompt": "", "completion": text}.',
    ),
    (
        {"input", "output"},
        'These are rows of input and output. Write each as {"messages": [{"role": "user", "content": '
        'input}, {"role": "assistant", "content": output}]}.',
    ),
)
_NO_TEXT = (
    "Unexpected file format, expected raw text. The method 'unsupervised' learns from rows of the form "
    "{\"text\": ...}; chat messages and prompt/completion pairs are for the method 'supervised'."
)


def format_of(first_row: Row, file_id: str, method: str) -> RowFormat | Problem:
    """The form of the file's rows, or why a job of that method cannot learn from them."""
    for row_format in OF_METHOD[method]:
        if row_format.claims(first_row):
            return row_format
    if first_row.keys() & _PREFERENCE_KEYS:
        return Problem(
            "invalid_training_file",
            f"Invalid file format. Input file {file_id} is in the fine-tune-preference format, but the specified "
            "fine-tuning job is not using 'dpo' as the training method "
            f"(provided method={method}). ",
        )
    if method == "unsupervised":
        return Problem("invalid_training_file", _NO_TEXT)
    hints = (hint for keys, hint in _FOREIGN if keys <= first_row.keys())
    text = "Unexpected file format, expected either prompt/completion pairs or chat messages."
    return Problem("invalid_training_file", " ".join((text, *islice(hints, 1))))
