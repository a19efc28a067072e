"""The linter's codes. One is never given another meaning, and that of a check that is gone is not given again.

E is what a job refuses (E301: what OpenAI refuses), W what trains but is probably not meant, I figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
MendKind = Literal["M", "A"]
"""M is mended by `--mend`, A only where it is asked for by `--mend-all` or by its code."""

_SEVERITIES: dict[str, Severity] = {"E": "error", "W": "warning", "I": "info"}


@dataclass(frozen=True)
class Code:
    id: str
    meaning: str
    mend: str = ""
    """What would mend it, in a few words behind "Mend:"."""
    mended_by: MendKind | None = None

    @property
    def severity(self) -> Severity:
        return _SEVERITIES[self.id[0]]


CATALOGUE = (
    # The file and its rows.
    Code("E101", "a line is no JSON", "set its commas and quotes right", "A"),
    Code("E102", "a line is JSON, but no object"),
    Code("E103", "the file is not in UTF-8", "save it as UTF-8"),
    Code("E104", "a key is missing, or one too many"),
    Code("E105", "rows of several forms in one file"),
    Code("E106", "a role that there is not"),
    Code("E107", "fewer than 10 rows, or none to validate by", "write more"),
    Code("E108", "a value of the wrong type"),
    Code("E109", "a weight other than 0 and 1"),
    Code("E110", "no message of the assistant", "drop the row", "A"),
    Code("W111", "a user's message is the last one", "drop that message", "A"),
    Code("W112", "an empty answer is learnt", "drop the row", "A"),
    Code("E113", "nothing is learnt in the whole file", "give some answers the weight 1"),
    Code("W114", "a tool's call without a result that follows, or a result without its call"),
    Code("W115", "arguments of a call that are no JSON object"),
    Code("W116", "a call of a tool that the row does not declare", 'add it to "tools"'),
    Code("E117", "a row from which the job's method learns nothing"),
    Code("W120", "the file is in the form of another tool", "convert it", "M"),
    Code("W121", "the same role twice in a row", "merge the two messages", "A"),
    Code("W122", "a system message that is not the first", "move it to the front", "A"),
    Code("W123", "user and assistant seem swapped", "swap them", "A"),
    # Rows that repeat each other.
    Code("W201", "the same row again", "keep the first", "A"),
    Code("W202", "nearly the same row again", "keep the first", "A"),
    Code("W203", "the same prompt with another answer", "keep one"),
    Code("W204", "nearly the same prompt with another answer, of few that there are", "check both"),
    Code("W205", "a row of the validation file is also in the training file", "drop it from training", "M"),
    Code("W206", "a row of the validation file is nearly in the training file", "drop it from training", "M"),
    # What becomes tokens.
    Code("E301", "a special token written out in a text", "take it out", "A"),
    Code("W302", "marks of a chat template in a text", "take them out", "A"),
    Code("W303", "an answer is cut at the context, so that its end is not learnt", "drop or split the row", "A"),
    Code("W304", "nothing is left of the answer within the context", "drop or shorten the row", "A"),
    Code("I305", "what is learnt of some rows"),
    Code("W306", "learnt answers do not end with the token that ends a turn"),
    # Texts.
    Code("W401", "white space at the end of an answer", "strip it", "M"),
    Code("W402", "line breaks other than \\n", r"write \n", "M"),
    Code("W403", "text that was decoded wrongly", "decode it again", "M"),
    Code("W404", "control or zero-width characters", "take them out", "M"),
    Code("W405", "HTML"),
    Code("W406", "an answer in another language than most"),
    Code("W407", "an answer in another language than its prompt"),
    # The file as a whole.
    Code("W501", "few rows for what is taught", "write more"),
    Code("W502", "a class that nearly all rows have, or hardly any"),
    Code("W503", "a value that is in the validation file only", "add rows of it to training"),
    Code("W504", "several system prompts"),
    Code("W505", "system prompts that differ in white space only", "write the most frequent one", "M"),
    Code("W506", "most answers are of one form, the rest are not"),
    Code("W507", "order of keys or spacing of JSON varies"),
    Code("W508", "an answer of 8 times the usual length, or an eighth"),
    Code("W509", "training and validation file differ"),
    Code("W510", "an answer that repeats its prompt"),
    Code("W511", "all answers are the same"),
    Code("I512", "rows are sorted by class; training shuffles them"),
    Code("W513", "answers that refuse, or speak as an AI", "drop the row", "A"),
    Code("W514", "one conversation holds much of what is learnt", "give it the weight 0", "A"),
    Code("W515", "placeholders for early answers", "give them the weight 0", "A"),
    # What should not be there.
    Code("W601", "a secret", "write a placeholder", "A"),
    Code("W602", "personal data", "write a placeholder", "A"),
    Code("W603", "orders to a model, or text that nobody sees"),
    # Figures.
    Code("I701", "tokens"),
    Code("I702", "lengths"),
    Code("I703", "what is taught"),
    Code("I704", "labels"),
    Code("I705", "training and validation"),
    Code("I706", "what an epoch computes"),
)  # fmt: skip

CODES = {code.id: code for code in CATALOGUE}


def selected(select: tuple[str, ...] = (), ignore: tuple[str, ...] = ()) -> frozenset[str]:
    """The codes that begin with one of `select`, all without it, but for those that begin with one of `ignore`.

    Raises ValueError for a beginning that no code has.
    """
    for beginning in (*select, *ignore):
        if not any(code.startswith(beginning) for code in CODES):
            raise ValueError(f"no code begins with {beginning!r}; they are {', '.join(CODES)}")
    wanted = (code for code in CODES if not select or code.startswith(select))
    return frozenset(code for code in wanted if not (ignore and code.startswith(ignore)))
