"""`luthier jobs`: fine-tuning, from its creation to its end."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from openai.types.fine_tuning import FineTuningJob

from luthier.client import Luthier
from luthier.jobs import TERMINAL

from . import files
from .connection import connected
from .errors import CommandError
from .job_options import with_job_options
from .output import AsJson, print_list, print_object, printable
from .progress import event_display

app = typer.Typer(help="Create, follow, pause and cancel fine-tuning jobs.", no_args_is_help=True)
COLUMNS = ("id", "status", "model", "fine_tuned_model", "created_at")

FORECAST_PATIENCE_S = 5.0
"""So long a new job's forecast is waited for."""
_FORECAST_POLL_S = 0.25

JobId = Annotated[str, typer.Argument(metavar="JOB_ID")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, newest first.")]


@app.command()
@connected
@with_job_options
def create(
    client: Luthier,
    training_file: Annotated[str, typer.Argument(help="A file id, or a JSONL file to upload.")],
    model: Annotated[str, typer.Option(help="The base, or a tuned model to continue from.")],
    validation_file: Annotated[str | None, typer.Option(help="Likewise, to measure on.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the job repeatable.")] = None,
    follow_it: Annotated[bool, typer.Option("--follow", help="Stay until it ends.")] = False,
    as_json: AsJson = False,
    *,
    asked: Any = None,
) -> None:
    """Create a fine-tuning job. What is left out, the server chooses by the base, the method and the file."""
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file_id(client, training_file),
        **given(
            validation_file=validation_file and file_id(client, validation_file),
            suffix=suffix,
            seed=seed,
        ),
        # OpenAI's API has not all of it.
        extra_body=asked,
    )
    if not follow_it:
        print_object(job, as_json=as_json)
        if not as_json:
            _print_forecast(client, job.id)
        return
    if not as_json:
        typer.echo(f"Created {job.id}")
    show_until_end(client, job.id, after=None, as_json=as_json)


def _print_forecast(client: Luthier, job_id: str) -> None:
    """What the job will take, if that is known soon: its rows are read before."""
    give_up_at = time.monotonic() + FORECAST_PATIENCE_S
    while time.monotonic() < give_up_at:
        time.sleep(_FORECAST_POLL_S)
        job = client.fine_tuning.jobs.retrieve(job_id)
        told = job.to_dict(mode="json").get("forecast")
        if isinstance(told, dict):
            found = client.forecasts.retrieve(told["id"])
            if found.forecast is not None:
                typer.echo(f"Forecast: {printable(found.forecast['text'])}")
            return
        if job.status in TERMINAL:
            return
    typer.echo(f"Its forecast comes once its rows are read: luthier jobs show {job_id}", err=True)


def given(**options: Any) -> dict[str, Any]:
    """What the user said; the rest is "auto" for the server."""
    return {name: value for name, value in options.items() if value is not None}


def file_id(client: Luthier, name: str) -> str:
    if not Path(name).is_file():
        return name
    file_id = files.send(client, Path(name)).id
    typer.echo(f"Uploaded {name} as {file_id}", err=True)
    return file_id


@app.command("list")
@connected
def list_jobs(client: Luthier, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List jobs."""
    jobs = client.fine_tuning.jobs.list(limit=min(limit, 100))
    print_list(islice(jobs, limit), COLUMNS, as_json=as_json)


@app.command()
@connected
def show(client: Luthier, job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job."""
    print_object(client.fine_tuning.jobs.retrieve(job_id), as_json=as_json)


@app.command()
@connected
def cancel(client: Luthier, job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job before its next step."""
    print_object(client.fine_tuning.jobs.cancel(job_id), as_json=as_json)


@app.command()
@connected
def pause(client: Luthier, job_id: JobId, as_json: AsJson = False) -> None:
    """Ask for a pause: the job stops behind its next step, with a checkpoint."""
    print_object(client.jobs.pause(job_id), as_json=as_json)


@app.command()
@connected
def resume(client: Luthier, job_id: JobId, as_json: AsJson = False) -> None:
    """Let a paused job go on where it stopped."""
    print_object(client.jobs.resume(job_id), as_json=as_json)


@app.command()
@connected
def events(client: Luthier, job_id: JobId, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List a job's latest events, newest first."""
    found = client.fine_tuning.jobs.list_events(job_id, limit=min(limit, 100))
    print_list(islice(found, limit), ("created_at", "level", "message"), as_json=as_json)


@app.command()
@connected
def checkpoints(client: Luthier, job_id: JobId, as_json: AsJson = False) -> None:
    """List the models that a job has made on its way."""
    found = client.fine_tuning.jobs.checkpoints.list(job_id)
    columns = ("step_number", "fine_tuned_model_checkpoint", "metrics", "created_at")
    print_list(found, columns, as_json=as_json)


@app.command()
@connected
def follow(
    client: Luthier,
    job_id: JobId,
    after: Annotated[str | None, typer.Option(help="Begin after the event of this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's progress until it ends; fails unless it succeeds."""
    show_until_end(client, job_id, after=after, as_json=as_json)


def show_until_end(client: Luthier, job_id: str, *, after: str | None, as_json: bool) -> None:
    try:
        with event_display(as_json=as_json) as show_event:
            for event in client.jobs.follow(job_id, after=after):
                show_event(event)
    except KeyboardInterrupt:
        typer.echo(f"\nThe job goes on; see it again with: luthier jobs follow {job_id}", err=True)
        raise typer.Exit(130) from None
    _check_outcome(client.fine_tuning.jobs.retrieve(job_id), as_json=as_json)


def _check_outcome(job: FineTuningJob, *, as_json: bool) -> None:
    if job.status == "failed":
        reason = job.error.message if job.error else None
        raise CommandError(f"the job failed: {reason or 'the server gives no reason'}")
    if job.status != "succeeded":
        raise CommandError(f"the job was {job.status}")
    if not as_json:
        typer.echo(f"Model: {job.fine_tuned_model}")
