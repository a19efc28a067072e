"""`luthier report`: what a job's tuning did, the verdict first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.client import Luthier
from luthier.reports import ReportNotReady, changed

from . import jobs
from .connection import connected
from .errors import CommandError
from .output import print_rows, printable

MAX_CHANGED = 5

Json = Mapping[str, Any]


@connected
def report(
    client: Luthier,
    job_id: jobs.JobId,
    html: Annotated[
        Path | None, typer.Option(help="Write it as one page that opens anywhere.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is there.")] = False,
    make: Annotated[str | None, typer.Option(help="Have it made anew: auto or full.")] = None,
) -> None:
    """What fine-tuning did: the verdict, who was compared, what changed."""
    if make is not None:
        if make not in ("auto", "full"):
            raise CommandError(f"--make is {make!r}; it must be auto or full")
        client.reports.make(job_id, "full" if make == "full" else "auto")
    try:
        found = client.reports.wait(job_id) if wait else client.reports.retrieve(job_id)
    except ReportNotReady as error:
        raise CommandError(f"{error}; --wait waits for it") from None
    if html is not None:
        html.write_text(client.reports.html(job_id), encoding="utf-8")
        typer.echo(f"Wrote {html}", err=True)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    typer.secho(f"{found['verdict']['code']}: {printable(found['verdict']['sentence'])}", bold=True)
    _show_contenders(found.get("contenders", {}))
    for line in changed(found, MAX_CHANGED):
        typer.echo(printable(line))
    _show_costs(found)


def _show_contenders(measured: Json) -> None:
    if "contenders" not in measured:
        return
    rows = [[measured["measure"], "", "tokens", f"of {measured['rows']} rows"]]
    best = sorted(measured["contenders"], key=lambda each: -each["primary"]["value"])
    for each in best:
        value, low, high = (100 * each["primary"][name] for name in ("value", "low", "high"))
        tokens = each.get("prompt_tokens")
        told = "" if tokens is None else f"{tokens:.0f}"
        rows.append([f"{value:.0f} %", f"{low:.0f} to {high:.0f}", told, printable(each["title"])])
    print_rows(rows, has_heading=True)
    for name, why in measured["left_out"].items():
        typer.echo(f"left out: {name}: {printable(why)}")


def _show_costs(found: Json) -> None:
    for name, cost in found.get("costs", {}).items():
        section = found.get(name, {})
        if "skipped" in section:
            typer.echo(f"{name}: not told: {printable(section['skipped'])}")
        elif cost["seconds"] >= 1:
            typer.echo(f"{name}: took {cost['seconds']:.0f} s")
