"""How the texts of a data set begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from .examples import Example

NUM_EXAMPLES = 4096
"""So many of the first ones are looked at: enough to tell what is common."""


def commonest(examples: Sequence[Example], num_tokens: int) -> npt.NDArray[np.int32]:
    """What most prompts begin with, `num_tokens` of it; of equals, what comes first in the file.

    A prompt is what lies before the first token to learn. If none is long enough it is whole texts, and if none of
    those is, all of the longest one.
    """
    texts = [
        sequence for example in islice(examples, NUM_EXAMPLES) for sequence in example.sequences
    ]
    prompts = (text.input_ids[: _prompt_length(text)] for text in texts)
    whole = [text.input_ids for text in texts]
    found = _commonest(prompts, num_tokens) or _commonest(whole, num_tokens)
    if found is None:
        return max(whole, key=len)[:num_tokens]
    return np.frombuffer(found, np.int32)


def _prompt_length(text: Example) -> int:
    is_learnt = text.weights != 0
    return int(is_learnt.argmax()) if is_learnt.any() else len(is_learnt)


def _commonest(texts: Iterable[npt.NDArray[np.int32]], num_tokens: int) -> bytes | None:
    beginnings = Counter(
        text[:num_tokens].astype(np.int32).tobytes() for text in texts if len(text) >= num_tokens
    )
    # Of equals a counter gives the first that it met.
    return beginnings.most_common(1)[0][0] if beginnings else None
