"""A tokenised row as what training can hold at once: cut off at one end, or in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from text.chat_template import TokenizedExample

from .examples import Example


def cut(tokenized: TokenizedExample, max_seq_len: int) -> Example:
    """Without what is behind the first `max_seq_len` tokens."""
    return Example(
        np.array(tokenized.input_ids[:max_seq_len], dtype=np.int32),
        np.array(tokenized.weights[:max_seq_len], dtype=np.float32),
    )


def cut_alike(
    sequences: Sequence[TokenizedExample], max_seq_len: int, bos_id: int | None
) -> Example:
    """Answers to one prompt, as one example: what is too long for one of them, the prompt loses for all.

    Its beginning goes, for what stands right before an answer says most about it; the token that every text of the
    base begins with stays. An answer that has no room even so loses its end.
    """
    whole = [cut(each, len(each.input_ids)) for each in sequences]
    num_prompt = min(int((each.weights != 0).argmax()) for each in whole)
    excess = max(each.num_tokens for each in whole) - max_seq_len
    first = int(num_prompt > 1 and int(whole[0].input_ids[0]) == bos_id)
    # Something must stay for the first token of an answer to be predicted from.
    lost = slice(first, first + max(min(excess, num_prompt - first - 1), 0))
    return Example.of_sequences(
        [
            Example(
                np.delete(each.input_ids, lost)[:max_seq_len],
                np.delete(each.weights, lost)[:max_seq_len],
            )
            for each in whole
        ]
    )


def windows(tokenized: TokenizedExample, max_seq_len: int, overlap: int) -> Iterator[Example]:
    """All of it: no window is longer than `max_seq_len`, and no token is learnt twice.

    A window predicts from its own tokens. So one that is not the first reads the last `overlap` predictions of
    that before it again, at weight 0, and the token that stands before those, for something must. Raises
    ValueError when the overlap leaves no room.
    """
    num_tokens, step = len(tokenized.input_ids), max_seq_len - 1 - overlap
    if overlap < 0 or step < 1:
        raise ValueError(f"windows of {max_seq_len} tokens cannot overlap by {overlap}")
    whole = cut(tokenized, num_tokens)
    num_bytes = np.array(tokenized.num_bytes or [0] * num_tokens, dtype=np.int64)
    for start in range(0, max(num_tokens - 1 - overlap, 1), step):
        end = start + max_seq_len
        weights = whole.weights[start:end].copy()
        if start:
            weights[: overlap + 1] = 0
        is_learnt = weights[1:] != 0
        learnt_bytes = int(num_bytes[start:end][1:][is_learnt].sum())
        yield Example(whole.input_ids[start:end], weights, num_bytes=learnt_bytes)
