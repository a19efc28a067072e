"""What commands print: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from openai import BaseModel
from rich.console import Console
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print the server's objects as JSON.")]
TIMES = frozenset({"created", "created_at", "finished_at", "estimated_finish", "expires_at"})


def print_object(item: BaseModel, *, as_json: bool) -> None:
    """One object, a field a line."""
    fields = item.to_dict(mode="json")
    if as_json:
        typer.echo(json.dumps(fields, indent=2))
    else:
        print_rows([name, _cell(name, value)] for name, value in fields.items() if name != "object")


def print_list(items: Iterable[BaseModel], columns: Sequence[str], *, as_json: bool) -> None:
    """Many objects, one a line, with these of their fields."""
    records = [item.to_dict(mode="json") for item in items]
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": records}, indent=2))
    else:
        print_table(records, columns)


def print_table(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    rows = [[_cell(name, record.get(name)) for name in columns] for record in records]
    print_rows([list(columns), *rows], has_heading=True)


def print_rows(rows: Iterable[Sequence[str]], *, has_heading: bool = False) -> None:
    """Columns as wide as their widest cell; nothing is ever cut off, so that ids can be copied."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = Console(highlight=False, soft_wrap=True)
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        # A Text, because brackets in a string would be taken for markup.
        console.print(Text(line.rstrip(), style="bold" if has_heading and number == 0 else ""))


def printable(text: str) -> str:
    """The text without control characters, with which a file's name or a model could steer the terminal."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def clock_time(created_at: int) -> str:
    """A Unix time as HH:MM:SS here."""
    return datetime.fromtimestamp(created_at).astimezone().strftime("%H:%M:%S")


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name in TIMES and isinstance(value, int):
        if value == 0:
            return "-"  # a base model has always been there
        return datetime.fromtimestamp(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, str):
        return printable(value).replace("\n", " ")
    return json.dumps(value)
