"""`luthier models`: the bases and what was tuned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.client import Luthier

from .connection import connected
from .output import AsJson, print_list, print_object

app = typer.Typer(help="List, delete and download models.", no_args_is_help=True)

ModelName = Annotated[str, typer.Argument(metavar="MODEL")]


@app.command("list")
@connected
def list_models(client: Luthier, as_json: AsJson = False) -> None:
    """List the models that can be used."""
    print_list(client.models.list(), ("id", "owned_by", "created"), as_json=as_json)


@app.command()
@connected
def show(client: Luthier, model: ModelName, as_json: AsJson = False) -> None:
    """Show one model."""
    print_object(client.models.retrieve(model), as_json=as_json)


@app.command()
@connected
def delete(client: Luthier, model: ModelName) -> None:
    """Delete a tuned model."""
    client.models.delete(model)
    typer.echo(f"Deleted {model}")


@app.command()
@connected
def download(
    client: Luthier,
    model: ModelName,
    path: Annotated[Path, typer.Argument(help="A directory that does not exist yet.")],
) -> None:
    """Download a tuned model's weights; a LoRA adapter becomes a PEFT directory."""
    typer.echo(f"Wrote {client.adapters.download(model, path)}")
