"""`luthier bases`: the base models of a server on this machine."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from .connection import DEFAULT_DATA_DIR
from .errors import CommandError
from .output import AsJson, print_table

app = typer.Typer(help="The base models of a server on this machine.", no_args_is_help=True)
COLUMNS = ("id", "source", "revision", "max_seq_len", "aliases")

DataDir = Annotated[Path, typer.Option("--data", help="The server's data directory.")]


def _catalogue() -> Any:
    """The server's own code; this command is the only part of it that needs no running server."""
    try:
        return import_module("storage.models.base_models")
    except ModuleNotFoundError as error:
        raise CommandError(f"the server is not installed here ({error})") from None


@app.command("list")
def list_bases(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: AsJson = False) -> None:
    """List the base models that the server knows."""
    base_models = _catalogue()
    try:
        bases = base_models.Catalogue.load(data_dir, {}).all()
    except base_models.LuthierError as error:
        raise CommandError(str(error)) from None
    records = [dataclasses.asdict(base) for base in bases]
    if as_json:
        typer.echo(json.dumps({"object": "list", "data": records}, indent=2))
    else:
        print_table(records, COLUMNS)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="The id that jobs will name.")],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="package:NAME, directory:PATH or huggingface:ORG/NAME.", metavar="SOURCE"
        ),
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    revision: Annotated[str, typer.Option(help="Which version of the source.")] = "main",
    alias: Annotated[list[str] | None, typer.Option(help="Another name; repeatable.")] = None,
    max_seq_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens; by default what a directory's config says.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Of its weights, for the cards of exports: apache-2.0, ...")
    ] = None,
    document_end: Annotated[
        str | None,
        typer.Option(
            help="The token that ended a text in pre-training; by default that of a turn."
        ),
    ] = None,
) -> None:
    """Add a base model, or replace the entry of that id; a server reads it when it starts."""
    base_models = _catalogue()
    fields: dict[str, Any] = {}
    if source.startswith("directory:"):
        directory = Path(source.removeprefix("directory:")).expanduser().resolve()
        source = f"directory:{directory}"
        fields = _read_config(directory)
    if max_seq_len is not None:
        fields["max_seq_len"] = max_seq_len
    try:
        base = base_models.BaseModel(
            id=name,
            source=source,
            revision=revision,
            aliases=tuple(alias or ()),
            license=license,
            document_end=document_end,
            **fields,
        )
        base_models.add(data_dir, base)
    except base_models.LuthierError as error:
        raise CommandError(str(error)) from None
    typer.echo(f"Added {name} to {data_dir}")


def _read_config(directory: Path) -> dict[str, Any]:
    """What the catalogue wants to know, from the model's config.json."""
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return {
            "max_seq_len": int(config["max_position_embeddings"]),
            "family": str(config["model_type"]),
        }
    except OSError as error:
        raise CommandError(f"{directory} holds no model: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{file} is no configuration of a language model: {error!r}") from None
