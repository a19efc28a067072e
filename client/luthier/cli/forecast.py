"""`luthier forecast`: what a job would take, without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from luthier.client import Luthier
from luthier.forecasts import Calibration, Forecast

from .connection import connected
from .errors import CommandError
from .job_options import with_job_options
from .jobs import file_id, given
from .output import AsJson, print_object, print_rows, printable

Json = Mapping[str, Any]


@connected
@with_job_options
def forecast(
    client: Luthier,
    training_file: Annotated[str, typer.Argument(help="A file id, or a JSONL file to upload.")],
    model: Annotated[str, typer.Option(help="The base, or a tuned model to continue from.")],
    validation_file: Annotated[str | None, typer.Option(help="Likewise, to measure on.")] = None,
    seed: Annotated[int | None, typer.Option(help="As the job would have it.")] = None,
    as_json: AsJson = False,
    *,
    asked: Any = None,
) -> None:
    """Say what a job would take: tokens, steps, time, memory, price. It takes the options of `luthier jobs create`."""
    made = client.forecasts.create(
        model=model,
        training_file=file_id(client, training_file),
        **given(
            validation_file=validation_file and file_id(client, validation_file),
            seed=seed,
        ),
        **asked,
    )
    made = client.forecasts.wait(made)
    if as_json:
        print_object(made, as_json=True)
    if made.status == "failed":
        reason = made.error.message if made.error else "the server gives no reason"
        raise CommandError(f"such a job would fail: {reason}")
    if not as_json:
        show(made)


@connected
def calibration(client: Luthier, as_json: AsJson = False) -> None:
    """Say how forecasts of time have held on this server, misses included."""
    found = client.forecasts.calibration()
    if as_json:
        print_object(found, as_json=True)
        return
    print_rows(_calibration_rows(found), has_heading=True)


def show(made: Forecast) -> None:
    print_rows(list(lines(made.forecast or {})))


def lines(told: Json) -> Iterator[list[str]]:
    """A line for each of its parts, as people read it."""
    tokens, steps, examples = told["tokens"], told["steps"], told["examples"]
    seconds, memory, price = told["seconds"], told["memory"], told["price"]
    yield [
        "tokens",
        f"{tokens['trained']:,} trained, {tokens['learnt']:,} of them learnt, in {told['n_epochs']} epochs",
    ]
    cut = [f"{examples[name]:,} {word}" for name, word in _CUT.items() if examples[name]]
    yield ["examples", ", ".join([f"{examples['trained']:,} of {examples['rows']:,} rows", *cut])]
    yield ["steps", f"{steps['total']:,} of {told['batch_size']} examples"]
    low, middle, high = (_duration(seconds[name]) for name in ("p05", "p50", "p95"))
    yield [
        "time",
        f"{middle} ({low} to {high} for nine in ten such jobs; {_basis(seconds['basis'])})",
    ]
    needed = f"about {_gigabytes(memory['bytes']['p50'])}"
    if memory["available_bytes"] is not None:
        needed += f" of {_gigabytes(memory['available_bytes'])}"
    yield ["memory", needed if memory["fits"] is not False else f"{needed}: it does not fit"]
    if memory["would_fit"]:
        yield ["", f"what would fit: {' or '.join(memory['would_fit'])}"]
    if price is not None:
        yield [
            "price",
            f"{price['p50']:.2f} {price['currency']} ({price['p05']:.2f} to {price['p95']:.2f})",
        ]
    yield ["gain", printable(told["gain"]["text"])]


_CUT = {"truncated": "lose a part", "left_out": "are left out"}


_INTERVALS = {
    "measured": "how far forecasts of such were off",
    "of_others": "how far forecasts of other jobs were off",
    "default": "a wide default until there are ten errors",
}


def _basis(basis: Json) -> str:
    if basis["interval"] == "guess":
        return "a guess: none like it was measured on such a machine yet"
    how = (
        "their errors" if basis["interval"] == "measured" else "a wide default until there are ten"
    )
    return f"by {basis['like_jobs']} jobs like it, the interval by {how}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f} GB"


def _calibration_rows(found: Calibration) -> Iterator[list[str]]:
    yield [
        "month",
        "method",
        "kind",
        "jobs",
        "inside",
        "95 %",
        "median ratio",
        "interrupted",
        "failed",
        "cancelled",
    ]
    for group in found.data:
        yield [
            *(printable(group[name]) for name in ("month", "method", "kind")),
            *_held(group),
            "-" if group["median_ratio"] is None else f"{group['median_ratio']:.2f}",
            *(str(group[f"num_{name}"]) for name in ("interrupted", "failed", "cancelled")),
        ]
    whole = {"num_jobs": found.num_jobs, "num_inside": found.num_inside, "coverage": found.coverage}
    nominal = f"nominal {found.nominal:.0%}"
    yield ["all", "", "", *_held(whole), nominal, "", "", ""]


def _held(group: Json) -> list[str]:
    coverage = group["coverage"]
    within = f"{coverage['low']:.0%} to {coverage['high']:.0%}" if coverage else "-"
    share = f"{group['num_inside']} ({coverage['value']:.0%})" if coverage else "-"
    return [str(group["num_jobs"]), share, within]
