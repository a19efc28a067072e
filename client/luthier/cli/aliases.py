"""`luthier aliases`: the project's own names for models."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.client import Luthier

from .connection import connected
from .output import AsJson, print_list, print_object

app = typer.Typer(help="Give models names of your own.", no_args_is_help=True)

Alias = Annotated[str, typer.Argument(metavar="ALIAS")]


@app.command()
@connected
def bind(
    client: Luthier,
    alias: Alias,
    model: Annotated[str, typer.Argument(help="A base or a tuned model.")],
    as_json: AsJson = False,
) -> None:
    """Let an alias stand for a model, whatever it stood for before."""
    print_object(client.aliases.bind(alias, model), as_json=as_json)


@app.command("list")
@connected
def list_aliases(client: Luthier, as_json: AsJson = False) -> None:
    """List the aliases."""
    print_list(client.aliases.list(), ("alias", "model", "created_at"), as_json=as_json)


@app.command()
@connected
def delete(client: Luthier, alias: Alias) -> None:
    """Delete an alias; its model stays."""
    client.aliases.delete(alias)
    typer.echo(f"Deleted {alias}")
