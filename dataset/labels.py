"""The labels of a file to classify by: found in the training file, and looked for in the validation file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from text.chat_template import TokenizedExample

from .formats.labelled import Form
from .formats.row_format import Problem

MAX_LABELS = 100
"""Each of them is scored for each text that is classified."""
MAX_LABEL_TOKENS = 64
_SHOWN = 10


@dataclass
class Class:
    """What is known of a label."""

    token_ids: tuple[int, ...]
    count: int = 0
    first: int = 0
    """The 1-based number of the first row that has it."""


class Labels:
    """Those of the rows that were seen, or with `known` ones these and no others."""

    def __init__(
        self,
        known: Mapping[str, tuple[int, ...]] | None = None,
        form: Form | None = None,
        *,
        are_rows: bool = False,
        are_a_models: bool = False,
    ) -> None:
        """They are words to write, or if they `are_rows`, the rows of an output layer of their own. The known ones are
        those of the training file, or of the model that the job goes on from."""
        self.classes = {text: Class(token_ids) for text, token_ids in (known or {}).items()}
        self.form = form
        """Of the rows: that of the first one, if it is not known."""
        self.are_rows = are_rows
        self._is_closed = known is not None
        self._are_a_models = are_a_models
        self._texts = {of.token_ids: text for text, of in self.classes.items()}

    def close(self) -> Problem | None:
        """From now on there are no others. What is wrong with them as a whole, if something is."""
        self._is_closed = True
        if len(self.classes) > 1:
            return None
        only = "".join(map(repr, self.classes))
        text = (
            f"All examples have the label {only}: to tell classes apart there must be examples of two at "
            "least. To learn what is answered use the method 'supervised'."
        )
        return Problem("invalid_training_file", text, is_the_bases=True)

    @property
    def once(self) -> dict[str, int]:
        """The labels that one row alone has, and its 1-based number."""
        return {text: of.first for text, of in self.classes.items() if of.count == 1}

    def see(self, number: int, text: str, token_ids: tuple[int, ...]) -> Problem | None:
        """Row `number` has the label `text`, of which `token_ids` are learnt; what is wrong with that."""
        label = self.classes.get(text)
        if self.are_rows:
            token_ids = (len(self.classes),) if label is None else label.token_ids
        if label is None:
            if self._is_closed:
                return _wrong(number, f"has the label {_quoted(text)}, {self._closed()}")
            if (problem := self._new_problem(number, text, token_ids)) is not None:
                return problem
            label = self.classes[text] = Class(token_ids, first=number)
            self._texts[token_ids] = text
        if label.token_ids != token_ids:
            return _wrong(
                number,
                f"has the label {_quoted(text)} as other tokens than example {label.first}: what stands "
                "before a label must end alike everywhere, for example with '\\n\\n###\\n\\n'",
            )
        label.count += 1
        return None

    def as_learnt(self, text: str, tokenized: TokenizedExample) -> TokenizedExample:
        """A row with that label, which was seen, as what is learnt of it where labels are rows."""
        # The place where the label would be written is where its row is the most probable one.
        num_context_ids = tokenized.weights.index(1.0)
        row = self.classes[text].token_ids
        return TokenizedExample(
            [*tokenized.input_ids[:num_context_ids], *row], [0.0] * num_context_ids + [1.0]
        )

    def _new_problem(self, number: int, text: str, token_ids: tuple[int, ...]) -> Problem | None:
        if (same := self._texts.get(token_ids)) is not None:
            return _wrong(
                number,
                f"has the label {_quoted(text)}, which is the same to this base as {_quoted(same)}; write it "
                "in one way",
            )
        if len(token_ids) > MAX_LABEL_TOKENS:
            return _wrong(
                number,
                f"has a label of {len(token_ids)} tokens, {_quoted(text)}; a label has {MAX_LABEL_TOKENS} at "
                "most. To learn to write longer answers use the method 'supervised'",
            )
        if len(self.classes) == MAX_LABELS:
            return _wrong(
                number,
                f"has the label {_quoted(text)}, one more than the {MAX_LABELS} different ones that there may "
                "be. To learn answers that differ from row to row use the method 'supervised'",
            )
        return None

    def _closed(self) -> str:
        texts = ", ".join(_quoted(text) for text in sorted(self.classes)[:_SHOWN])
        more = len(self.classes) - _SHOWN
        others = f" and {more} more" if more > 0 else ""
        if self._are_a_models:
            return f"for which the model to go on from has no row; it has {texts}{others}"
        return f"which no example of the training file has; those are {texts}{others}"


def _wrong(number: int, text: str) -> Problem:
    return Problem(
        "invalid_training_file",
        f"Invalid file format. Example {number} {text}.",
        is_the_bases=True,
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
