"""Which form a file's rows have: its first row decides, among those that a method learns from."""

from __future__ import annotations

from itertools import islice

from . import chat, completion, labelled, preference, raw_text
from .row_format import Problem, Row, RowFormat

OF_METHOD: dict[str, tuple[RowFormat, ...]] = {
    "supervised": (chat, completion),
    "unsupervised": (raw_text,),
    "dpo": (preference,),
    "classification": labelled.FORMS,
}
"""A new form is a line here."""

_PREFERENCE_ROW = (
    '{"input": {"messages": [{"role": "user", "content": prompt}]}, '
    '"preferred_output": [{"role": "assistant", "content": chosen}], '
    '"non_preferred_output": [{"role": "assistant", "content": rejected}]}'
)
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
        "Write the answers to learn as {\"messages\": [...]}, or use the method 'dpo' and write each as "
        f"{_PREFERENCE_ROW}.",
    ),
    (
        {"text", "label"},
        "These are rows of text and label, which the method 'classification' learns from.",
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
_NO_LABEL = (
    "Unexpected file format, expected labels. The method 'classification' learns from chat messages of which the "
    "last, the assistant's, is the label, from prompt/completion pairs whose completion is it, and from rows of the "
    'form {"text": ..., "label": ...}.'
)

_NO_PREFERENCES = (
    "Unexpected file format, expected preferences. The method 'dpo' learns from rows of the form "
    '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}.'
)
_FOREIGN_PREFERENCES = (
    (
        {"chosen", "rejected"},
        f"These are TRL's preference rows (prompt, chosen, rejected). Write each as {_PREFERENCE_ROW}. A list of "
        "messages stays as it is; what chosen and rejected begin with alike goes into the input.",
    ),
    (
        {"completion", "label"},
        "These are rows of single answers with a label each. Write two answers to one prompt, a liked one and "
        f"another, as {_PREFERENCE_ROW}, with the liked one as chosen.",
    ),
)


def format_of(first_row: Row, file_id: str, method: str) -> RowFormat | Problem:
    """The form of the file's rows, or why a job of that method cannot learn from them."""
    for row_format in OF_METHOD[method]:
        if row_format.claims(first_row):
            return row_format
    if preference.claims(first_row):
        return _of_another_method("fine-tune-preference", "dpo", file_id, method)
    if method == "unsupervised":
        return Problem("invalid_training_file", _NO_TEXT)
    if method == "dpo":
        if chat.claims(first_row):
            return _of_another_method("fine-tune-chat", "supervised", file_id, method)
        return _unexpected(_NO_PREFERENCES, first_row, _FOREIGN_PREFERENCES)
    if method == "classification":
        return _unexpected(_NO_LABEL, first_row, ())
    text = "Unexpected file format, expected either prompt/completion pairs or chat messages."
    return _unexpected(text, first_row, _FOREIGN)


def _of_another_method(form: str, its_method: str, file_id: str, method: str) -> Problem:
    """In OpenAI's words, to the last space."""
    return Problem(
        "invalid_training_file",
        f"Invalid file format. Input file {file_id} is in the {form} format, but the specified "
        f"fine-tuning job is not using '{its_method}' as the training method (provided method={method}). ",
    )


def _unexpected(text: str, first_row: Row, foreign: tuple[tuple[set[str], str], ...]) -> Problem:
    """With the way to mend the rows, if they are known."""
    hints = (hint for keys, hint in foreign if keys <= first_row.keys())
    return Problem("invalid_training_file", " ".join((text, *islice(hints, 1))))
