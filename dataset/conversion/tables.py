"""CSV and TSV: which columns hold the prompt and the answer, said or guessed by their names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from dataset.formats.row_format import Row
from foundation import encodings

from .rows import Unmapped

NAMES = {
    "prompt": ("prompt", "question", "instruction", "input", "user", "query", "text", "source", "message"),
    "answer": ("completion", "answer", "response", "output", "assistant", "reply", "label", "target", "category"),
    "system": ("system", "system_prompt"),
}  # fmt: skip
"""What columns are called that are guessed, the likeliest name first."""
MAX_CELL_CHARS = 1 << 20
_DELIMITERS = (",", ";", "\t", "|")


class NotConvertible(ValueError):
    """Nothing of the file can be read as rows; `str()` says what to do."""


def columns_of(text: str) -> dict[str, str]:
    """`prompt=NAME,answer=NAME,system=NAME` as a mapping; numbers from 1 instead of names where there is no header."""
    pairs = [part.partition("=") for part in text.split(",")]
    columns = {key.strip().replace("completion", "answer"): name.strip() for key, _, name in pairs}
    if not {"prompt", "answer"} <= columns.keys() <= NAMES.keys() or not all(columns.values()):
        raise NotConvertible(
            f"columns must read prompt=NAME,answer=NAME, and system=NAME where there is one; not {text!r}"
        )
    return columns


def is_table(suffix: str, first_line: str) -> bool:
    """Whether a file whose name ends so and that begins so is one."""
    if suffix in (".csv", ".tsv"):
        return True
    return not suffix and any(_guess(cells) is not None for cells in _split(first_line).values())


def rows_of(
    path: Path, suffix: str, columns: Mapping[str, str] | None
) -> Iterator[tuple[int, Row | Unmapped]]:
    """Chat rows, with the lines at which they begin. Raises NotConvertible."""
    csv.field_size_limit(MAX_CELL_CHARS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first_line = _first_line(file)
        delimiter, places, has_header, num_cells = _layout(suffix, first_line, columns)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, Unmapped(f"it cannot be read as CSV: {error}")
                continue
            except UnicodeDecodeError as error:
                raise NotConvertible(_not_utf_8(error)) from None
            if cells and not (has_header and number == 1):
                yield number, _row(cells, places, num_cells)


def _first_line(file: TextIO) -> str:
    try:
        return file.readline(MAX_CELL_CHARS)
    except UnicodeDecodeError as error:
        raise NotConvertible(_not_utf_8(error)) from None


def _not_utf_8(error: UnicodeDecodeError) -> str:
    return f"it is not in UTF-8; {encodings.advice_on(error.object[error.start : error.end + 40])}"


def _row(cells: list[str], places: Mapping[str, int], num_cells: int) -> Row | Unmapped:
    if len(cells) != num_cells:
        return Unmapped(f"it has {len(cells)} cells instead of {num_cells}")
    of = {key: cells[place] for key, place in places.items()}
    for key in ("prompt", "answer"):
        if not of[key].strip():
            return Unmapped(f"its {key} is empty")
    system = [{"role": "system", "content": of["system"]}] if of.get("system", "").strip() else []
    turn = [
        {"role": "user", "content": of["prompt"]},
        {"role": "assistant", "content": of["answer"]},
    ]
    return {"messages": [*system, *turn]}


def _layout(
    suffix: str, first_line: str, columns: Mapping[str, str] | None
) -> tuple[str, dict[str, int], bool, int]:
    """The delimiter, where each column is, whether the first line is a header, and how many columns there are."""
    splits = _split(first_line)
    if suffix == ".tsv":
        splits = {"\t": splits["\t"]}
    for delimiter, cells in splits.items():
        if columns is None:
            places = _guess(cells)
            if places is not None:
                return delimiter, places, True, len(cells)
        elif all(name.isdigit() and 0 < int(name) <= len(cells) for name in columns.values()):
            if len(cells) > 1:
                return (
                    delimiter,
                    {key: int(name) - 1 for key, name in columns.items()},
                    False,
                    len(cells),
                )
        elif set(columns.values()) <= set(cells):
            return (
                delimiter,
                {key: cells.index(name) for key, name in columns.items()},
                True,
                len(cells),
            )
    cells = max(splits.values(), key=len)
    shown = ", ".join(repr(cell[:40]) for cell in cells[:8])
    raise NotConvertible(
        f"the first line of the table ({shown}) names no columns "
        + ("that are known as prompt and answer" if columns is None else "of those names")
        + "; say which they are with --columns prompt=NAME,answer=NAME, or by their numbers if there is no header: "
        "--columns prompt=1,answer=2"
    )


def _split(first_line: str) -> dict[str, list[str]]:
    found = {}
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([first_line], delimiter=delimiter), [])
        except csv.Error:
            cells = []
        found[delimiter] = [cell.strip() for cell in cells]
    return found


def _guess(header: list[str]) -> dict[str, int] | None:
    """Where prompt and answer are, if the names say so."""
    lower = [name.lower() for name in header]
    places = {}
    for key, names in NAMES.items():
        place = next((lower.index(name) for name in names if name in lower), None)
        if place is not None:
            places[key] = place
    return places if {"prompt", "answer"} <= places.keys() else None
