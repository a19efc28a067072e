"""Rows with labels, read as a job reads them."""

from __future__ import annotations

from pathlib import Path

from dataset.labels import Labels
from dataset.validation import validate
from text.chat_template import ChatTemplate


def labels_of(content: bytes, base_path: Path, folder: Path) -> Labels:
    """Those that a base can learn from the rows, of which none is left out or too long for the examples' jobs."""
    labels = Labels()
    counted = validate(
        [content],
        folder,
        ChatTemplate.load(base_path),
        max_seq_len=512,
        role="training",
        file_id="file-X",
        method="classification",
        labels=labels,
    )
    assert counted.num_examples == len(content.splitlines())
    assert (counted.num_too_long, counted.num_left_out) == (0, 0)
    assert labels.once == {}
    return labels
