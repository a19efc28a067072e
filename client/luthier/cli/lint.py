"""`luthier lint`: what is wrong with a training file, before it is uploaded. It needs no server that runs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from .connection import DEFAULT_DATA_DIR
from .errors import CommandError
from .output import printable

_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
_KINDS = {"context": "dim", "learnt": "green", "cut": "strike red"}
_SEVERITIES = {"E": "error", "W": "warning", "I": "info"}


def lint(
    file: Annotated[Path, typer.Argument(help="JSON Lines, or what can be converted to it.")],
    validation: Annotated[
        Path | None, typer.Option(help="A validation file, to be compared with.")
    ] = None,
    mend: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a mended copy there.")
    ] = None,
    mend_all: Annotated[
        bool, typer.Option("--mend-all", help="Mend what only people should decide, too.")
    ] = False,
    mend_code: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Mend this, too; repeatable.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Only codes that begin so; repeatable.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="No codes that begin so; repeatable.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="The job's method; by default what learns from such rows.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Count its tokens, and find what its context cuts off.")
    ] = None,
    max_seq_len: Annotated[
        int | None, typer.Option(min=16, help="Tokens of a row; by default what the base takes.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Show so many rows as the base sees them.")] = 0,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="prompt=NAME,answer=NAME", help="Of a table; numbers if it has no header."
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Convert prompt and completion rows to chats.")
    ] = False,
    near: Annotated[bool, typer.Option(help="Look for rows that are nearly the same.")] = True,
    data_dir: Annotated[
        Path, typer.Option("--data", help="The data directory in which bases lie.")
    ] = DEFAULT_DATA_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a training file; exits with 1 if a job would refuse it."""
    linting = _linting()
    try:
        options = linting.options(
            select=tuple(select or ()),
            ignore=tuple(ignore or ()),
            method=method,
            base=base or ("smollm2-135m-instruct" if show else None),
            max_seq_len=max_seq_len,
            data_dir=data_dir,
            columns=columns,
            to_chat=chat,
            finds_near=near,
        )
        mended = None
        if mend is not None:
            codes = tuple(mend_code or ())
            mended = linting.write_mended(
                file, mend, validation, options, codes, all_of_them=mend_all
            )
        report = mended.lint if mended else linting.look(file, validation, options)
        rows = linting.show(file, options, show) if show else []
    except linting.REFUSALS as error:
        raise CommandError(str(error)) from None
    if as_json:
        mend_report = {"mended": mended.to_json()} if mended else {}
        typer.echo(json.dumps({**report.to_json(), **mend_report}, indent=2))
    else:
        _print(report, mended, rows)
    if report.num_of("error") and mended is None:
        raise typer.Exit(1)


def _linting() -> Any:
    """The server's own code, which is installed beside the command or not."""
    try:
        return import_module("embedded.linting")
    except ModuleNotFoundError as error:
        raise CommandError(
            f"linting is done by the server's code, which is not installed here ({error}): run `make setup` in a "
            "checkout of Luthier, or ask a server with GET /v1/luthier/files/{id}/lint"
        ) from None


def _print(report: Any, mended: Any, rows: list[Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for file in report.files:
        if len(report.files) > 1:
            console.print(Text(printable(file.name), style="bold"))
        for line in file.lines():
            severity = _SEVERITIES[line[0]]
            code, rest = line[:4], printable(line[4:])
            console.print(Text(code, style=_STYLES[severity]).append(rest, style=""))
    for row in rows:
        _print_row(console, row)
    for line in mended.lines() if mended else ():
        console.print(Text(printable(line)))
    console.print(Text(printable(report.summary), style="bold"))


def _print_row(console: Console, row: Any) -> None:
    """What is learnt in green, context dim, what is cut off struck through; special tokens in reverse."""
    heading = (
        f"I305 line {row.line}, {row.why}: {row.num_learnt} of {row.num_tokens} tokens are learnt"
    )
    if row.problem:
        heading = f"I305 line {row.line}, {row.why}: {row.problem}"
    console.print(Text(printable(heading), style="bold"))
    shown = Text()
    for segment in row.segments:
        style = _KINDS[segment.kind] + (" reverse" if segment.is_special else "")
        shown.append(printable(segment.text), style=style)
    console.print(shown)
