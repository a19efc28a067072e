"""`luthier files`: what jobs learn from, and what they report."""

from __future__ import annotations

import base64
import binascii
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from openai.types import FileObject

from luthier.client import Luthier

from .connection import connected
from .output import AsJson, print_list, print_object, printable

app = typer.Typer(help="Upload, list and download files.", no_args_is_help=True)
COLUMNS = ("id", "filename", "purpose", "bytes", "status", "created_at")

FileId = Annotated[str, typer.Argument(metavar="FILE_ID")]


@app.command()
@connected
def upload(
    client: Luthier,
    path: Annotated[Path, typer.Argument(help="A JSONL file.")],
    purpose: Annotated[str, typer.Option(help="What the file is for.")] = "fine-tune",
    as_json: AsJson = False,
) -> None:
    """Upload a file."""
    print_object(send(client, path, purpose), as_json=as_json)


def send(client: Luthier, path: Path, purpose: str = "fine-tune") -> FileObject:
    """Upload from the open file, so that a large one is not read into memory."""
    checked: Any = purpose  # the server knows which there are
    with path.open("rb") as file:
        return client.files.create(file=(path.name, file), purpose=checked)


@app.command("list")
@connected
def list_files(
    client: Luthier,
    purpose: Annotated[str | None, typer.Option(help="Only files for this.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List files."""
    query = {"limit": limit} if purpose is None else {"limit": limit, "purpose": purpose}
    files = client.files.list(extra_query=query)
    print_list(islice(files, limit), COLUMNS, as_json=as_json)


@app.command()
@connected
def show(client: Luthier, file_id: FileId, as_json: AsJson = False) -> None:
    """Show one file's record."""
    print_object(client.files.retrieve(file_id), as_json=as_json)


@app.command()
@connected
def delete(client: Luthier, file_id: FileId) -> None:
    """Delete a file."""
    client.files.delete(file_id)
    typer.echo(f"Deleted {file_id}")


@app.command()
@connected
def download(
    client: Luthier,
    file_id: FileId,
    path: Annotated[Path | None, typer.Argument(help="Where to; its own name by default.")] = None,
) -> None:
    """Download a file; the metrics of a finished job as CSV."""
    record = client.files.retrieve(file_id)
    target = path or Path(_own_name(record))
    if path is not None and path.is_dir():
        target = path / _own_name(record)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with client.files.with_streaming_response.content(file_id) as response:
            response.stream_to_file(partial)
        if record.purpose == "fine-tune-results":
            partial.write_bytes(decode_results(partial.read_bytes()))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"Wrote {target}")


def _own_name(record: FileObject) -> str:
    """The last part of the name that its uploader chose, which is never to be taken for a path."""
    name = printable(record.filename).replace("\\", "/").rpartition("/")[2]
    return record.id if name in ("", ".", "..") else name


def decode_results(content: bytes) -> bytes:
    """OpenAI's API wraps result files in base64; CSV has commas, which base64 has not."""
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return content
