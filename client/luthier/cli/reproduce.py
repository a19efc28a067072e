"""`luthier reproduce`: train a job again, and compare what comes out."""

from __future__ import annotations

from typing import Annotated

import typer

from luthier.client import Luthier

from . import jobs
from .connection import connected
from .errors import CommandError
from .output import printable

MAX_SHOWN = 10


@connected
def reproduce(
    client: Luthier,
    job_id: jobs.JobId,
    against: Annotated[
        str | None,
        typer.Option(help="Train nothing: compare with this job, a reproduction that has ended."),
    ] = None,
) -> None:
    """Train a job again with the same files, seed and settings, and compare the weights; fails if they differ."""
    again = against
    if again is None:
        again = client.reproductions.create(job_id).id
        typer.echo(f"Created {again}, which is to be like {job_id}")
        jobs.show_until_end(client, again, after=None, as_json=False)
    found = client.reproductions.compare(job_id, again)
    for name, (before, now) in {**found.settings, **found.environment}.items():
        typer.echo(f"{printable(name)}: {printable(str(before))} then, {printable(str(now))} now")
    if found.is_equal:
        typer.echo(f"Equal: all {found.num_tensors} tensors have the same SHA-256")
        return
    for name in found.different[:MAX_SHOWN]:
        typer.echo(f"differs: {printable(name)}")
    reason = "see above" if found.settings or found.environment else "the environment is the same"
    raise CommandError(
        f"{len(found.different)} of {found.num_tensors} tensors differ from those of {job_id}; {reason}"
    )
