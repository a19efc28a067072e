"""`luthier serve`: the whole service on this machine, in the foreground. `luthier open`: a server's page in a browser."""

from __future__ import annotations

import webbrowser
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from luthier.client import Luthier

from .connection import DEFAULT_DATA_DIR, connected
from .errors import CommandError


def serve(
    data_dir: Annotated[
        Path, typer.Option("--data", help="Where everything is kept.")
    ] = DEFAULT_DATA_DIR,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=BASE", help="Another name for a base; repeatable."),
    ] = None,
    base: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A base to serve from the start; repeatable."),
    ] = None,
) -> None:
    """Run the server: API, worker, inference, and what they need."""
    aliases = dict(_pair(text) for text in alias or ())
    try:
        stack = import_module("embedded.stack")
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the server is not installed here ({error}): run `make setup` in a checkout of Luthier"
        ) from None
    code = stack.serve(data_dir=data_dir, host=host, port=port, aliases=aliases, bases=base or [])
    raise typer.Exit(code or 0)


def address(base_url: str) -> str:
    """Of the page of the server whose API is there."""
    return f"{base_url.rstrip('/').removesuffix('/v1')}/dashboard"


@connected
def open_page(client: Luthier) -> None:
    """Open the server's page in a browser, and tell its address."""
    url = address(str(client.base_url))
    typer.echo(url)
    if not webbrowser.open(url):
        typer.echo("No browser could be started here: open the address above.", err=True)


def _pair(text: str) -> tuple[str, str]:
    name, separator, base = (part.strip() for part in text.partition("="))
    if not (name and separator and base):
        raise typer.BadParameter(f"{text!r} must read NAME=BASE", param_hint="--alias")
    return name, base
