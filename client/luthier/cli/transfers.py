"""`luthier export` and `luthier verify`: tuned models for use elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from luthier.client import Luthier
from luthier.exports import ModelExport
from luthier.manifests import verify as verify_manifest

from .connection import connected, find
from .output import printable


@connected
def export(
    client: Luthier,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A tuned model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A directory that does not exist yet.")
    ],
    format: Annotated[
        Literal["peft", "safetensors", "gguf"],
        typer.Option(help="An adapter, a model for transformers, or one for llama.cpp."),
    ] = "peft",
    quantization: Annotated[
        Literal["f16", "q8_0"] | None, typer.Option(help="Of gguf; f16 if nothing is said.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the files on the server.")] = False,
) -> None:
    """Export a tuned model, with a model card and a signed manifest."""
    if output.exists():
        raise FileExistsError(f"{output} exists already")
    made = client.exports.create(model, format, quantization)
    typer.echo(f"Created {made.id}", err=True)
    try:
        with _bar("making") as show:
            done = client.exports.wait(made.id, show)
        with _bar("downloading", done) as show:
            client.exports.download(made.id, output, on_bytes=show)
    except KeyboardInterrupt:
        client.exports.delete(made.id)
        raise typer.Exit(130) from None
    if not keep:
        client.exports.delete(made.id)
    typer.echo(f"Wrote {output}")


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An export.")],
    key: Annotated[
        str | None,
        typer.Option(
            help="The installation's public key in base64, as an earlier check printed it; by default the "
            "server is asked."
        ),
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of the API.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Key for it.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data", help="Data directory of a server on this machine.")
    ] = None,
) -> None:
    """Check that an export's files are what the installation made and signed."""
    if key is None:
        connection = find(base_url, api_key, data_dir)
        with Luthier(base_url=connection.base_url, api_key=connection.api_key) as client:
            key = client.exports.signing_key()
    found = verify_manifest(directory, key)
    typer.echo(
        f"{printable(found.model)} as {printable(found.format)}: {found.num_files} files are as signed by {key}"
    )


@contextmanager
def _bar(what: str, export: ModelExport | None = None) -> Iterator[Callable[[float], object]]:
    """A bar in a terminal, of shares or, of a known export, of its bytes; silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    size = TextColumn("{task.percentage:3.0f} %") if export is None else DownloadColumn()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), size, console=Console(stderr=True)
    )
    with bar:
        task = bar.add_task(what, total=1.0 if export is None else export.bytes)
        if export is None:
            yield lambda share: bar.update(task, completed=share)
        else:
            yield lambda num_bytes: bar.advance(task, num_bytes)
