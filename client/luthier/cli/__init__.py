"""The `luthier` command: `app` puts the nouns together, one file each."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from . import (
    aliases,
    bases,
    chat,
    classify,
    files,
    forecast,
    jobs,
    lint,
    models,
    reports,
    reproduce,
    serve,
    transfers,
)
from .errors import OneLineErrors

app = typer.Typer(
    name="luthier",
    help="Fine-tune and serve models on your own machines, through OpenAI's API.",
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("open")(serve.open_page)
app.command("lint")(lint.lint)
app.add_typer(files.app, name="files")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(aliases.app, name="aliases")
app.command("chat")(chat.chat)
app.command("classify")(classify.classify)
app.command("forecast")(forecast.forecast)
app.command("calibration")(forecast.calibration)
app.command("reproduce")(reproduce.reproduce)
app.command("export")(transfers.export)
app.command("verify")(transfers.verify)
app.command("report")(reports.report)
app.add_typer(bases.app, name="bases")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"luthier {installed_version('luthier')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass
