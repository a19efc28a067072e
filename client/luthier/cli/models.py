"""`luthier models`: the bases and what was tuned from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.client import Luthier

from .connection import connected
from .output import AsJson, print_list, print_object

app = typer.Typer(help="List, delete, download and import models.", no_args_is_help=True)

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


@app.command("import")
@connected
def import_adapter(
    client: Luthier,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A LoRA adapter of PEFT's.")],
    base: Annotated[str, typer.Option(help="The base model that it was trained on.")],
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's name.")] = None,
    name: Annotated[str | None, typer.Option(help="An alias to call it by.")] = None,
) -> None:
    """Make a model of a LoRA adapter that was trained elsewhere, with TRL, Unsloth or another."""
    model = client.imports.upload(directory, base, suffix=suffix)
    typer.echo(f"Model: {model}")
    if name is not None:
        client.aliases.bind(name, model)
        typer.echo(f"Alias: {name}")
