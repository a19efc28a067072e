"""`luthier classify`: the labels of texts."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from luthier.client import Luthier

from .connection import connected
from .errors import CommandError
from .output import AsJson, print_rows, printable


@connected
def classify(
    client: Luthier,
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    text: Annotated[
        str | None,
        typer.Argument(
            help="What is to be classified; without it each line of a pipe.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model that was trained by the method classification which label a text has, and how sure it is."""
    if text is not None:
        found = client.classifications.create(model, text)
        if as_json:
            typer.echo(json.dumps(found.to_dict(mode="json"), indent=2))
            return
        (one,) = found.data
        ranked = sorted(one.probabilities.items(), key=lambda of: -of[1])
        print_rows([printable(label), f"{share:.4f}"] for label, share in ranked)
        return
    if sys.stdin.isatty():
        raise CommandError("there is no text: give it behind the model, or one a line by a pipe")
    lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    for line, one in zip(lines, client.classifications.each(model, lines), strict=True):
        if as_json:
            typer.echo(json.dumps({"text": line, **one.to_dict(mode="json")}))
        else:
            print_rows([[printable(one.label), f"{one.probability:.4f}", printable(line)]])
