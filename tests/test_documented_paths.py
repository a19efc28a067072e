"""What the documents point at is there: links, and files and folders in code quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(HOUSE))
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "deploy/*.md",
        "client/*.md",
        "bench/*.md",
        "examples/**/*.md",
    )
    for path in HOUSE.glob(pattern)
)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
QUOTED = re.compile(r"`([\w.]+(?:/[\w.-]*)+)(?:::[\w.]+)?`")


def pointed_at(document: str) -> tuple[set[Path], set[Path]]:
    """By links, which start from the document's folder, and in quotes, which start from the root."""
    text = (HOUSE / document).read_text("utf-8")
    links = {(HOUSE / document).parent / link for link in LINK.findall(text)}
    # Only what begins with a folder of the house: `chat/completions` is a URL's.
    quoted = {HOUSE / path for path in QUOTED.findall(text)}
    return links, {path for path in quoted if (HOUSE / path.relative_to(HOUSE).parts[0]).is_dir()}


def test_documents_point_at_much() -> None:
    links, quoted = zip(*map(pointed_at, DOCUMENTS), strict=True)
    assert sum(map(len, links)) > 30
    assert sum(map(len, quoted)) > 100


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_points_at_is_there(document: str) -> None:
    links, quoted = pointed_at(document)
    assert {path for path in links | quoted if not path.exists()} == set()
