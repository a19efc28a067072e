"""The views of jobs: the list, one job live, and the form that makes one."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from . import wording
from .asking import ApiRefused, Json
from .viewing import Viewer, see_other

ACTIONS = {"pause": "Pause", "resume": "Resume", "cancel": "Cancel"}
POSSIBLE = {
    "validating_files": ("cancel",),
    "queued": ("pause", "cancel"),
    "running": ("pause", "cancel"),
    "paused": ("resume", "cancel"),
}
METHODS = (
    ("supervised", "supervised: answer like these examples"),
    ("dpo", "preferences: of two answers, the better one"),
    ("classification", "classification: which of a few labels"),
    ("unsupervised", "raw text: go on like these texts"),
)
KNOBS = ("n_epochs", "batch_size", "learning_rate_multiplier")
_JOBS = "/v1/fine_tuning/jobs"


async def listed(request: Request, viewer: Viewer) -> Response:
    asked = {key: request.query_params.get(key, "") for key in ("search", "status", "after")}
    page = await viewer.ask.get(
        _JOBS, {"limit": 25, **{key: value for key, value in asked.items() if value}}
    )
    models = await viewer.ask.get("/v1/models") if not page["data"] else {"data": []}
    bases = [model["id"] for model in models["data"] if model["owned_by"] == "system"]
    is_part = "x-part" in request.headers
    return viewer.page(
        request,
        "parts/jobs.html" if is_part else "jobs.html",
        "jobs",
        page=page,
        search=asked["search"],
        status=asked["status"],
        states=wording.STATES,
        part=f"jobs?{request.url.query}",
        example_base=bases[0] if bases else "BASE",
    )


async def one(request: Request, viewer: Viewer) -> Response:
    job = await viewer.ask.get(_path(request))
    job_id = job["id"]
    events = await viewer.ask.get(f"{_JOBS}/{job_id}/events", {"limit": 100})
    checkpoints = await viewer.ask.get(f"{_JOBS}/{job_id}/checkpoints", {"limit": 50})
    return viewer.page(
        request,
        "job.html",
        "jobs",
        job=job,
        **_status(job, events["data"]),
        report=await _report(viewer, job),
        checkpoints=checkpoints["data"],
        events=events["data"],
        settings=_settings(job),
        command=_command(job),
    )


async def status(request: Request, viewer: Viewer) -> Response:
    """The part of a job's page that changes while it trains."""
    job = await viewer.ask.get(_path(request))
    events = await viewer.ask.get(f"{_JOBS}/{job['id']}/events", {"limit": 20})
    return viewer.page(
        request, "parts/status.html", "jobs", job=job, **_status(job, events["data"])
    )


async def act(request: Request, viewer: Viewer) -> Response:
    action = request.path_params["action"]
    if action in ACTIONS:
        await viewer.ask.post(f"{_path(request)}/{action}")
    return see_other(request, f"jobs/{request.path_params['job_id']}")


async def new(request: Request, viewer: Viewer) -> Response:
    """The form, and what was typed into it where the server refused it."""
    if request.method == "GET":
        chosen = {"training_file": request.query_params.get("file", "")}
        return await _form(request, viewer, chosen, None)
    form = {key: str(value) for key, value in (await request.form()).items()}
    try:
        made = (await viewer.ask.post(_JOBS, body_of(form))).json()
    except ApiRefused as refused:
        if refused.is_sign_in_needed:
            raise
        problem = {"message": refused.message, "request_id": refused.request_id}
        return await _form(request, viewer, form, problem)
    return see_other(request, f"jobs/{made['id']}")


async def preview(request: Request, viewer: Viewer) -> Response:
    """What the linter says of the chosen file, and what the job would take. Always 200: a browser tells each other status on its
    console, and a form that is half filled in is no fault.
    """
    form = {key: str(value) for key, value in (await request.form()).items()}
    if not form.get("training_file"):
        return viewer.page(
            request, "parts/preview.html", "new", lint=None, forecast=None, reasons=()
        )
    reasons = []
    lint = forecast = None
    try:
        lint = await viewer.ask.get(_lint_path(form["training_file"]), _lint_params(form))
    except ApiRefused as refused:
        reasons.append(refused.message)
    try:
        reply = await viewer.ask.post("/v1/luthier/forecasts", body_of(form))
        forecast = reply.json()
    except ApiRefused as refused:
        reasons.append(refused.message)
    if forecast is not None and forecast["error"]:
        reasons.append(forecast["error"]["message"])
    return viewer.page(
        request,
        "parts/preview.html",
        "new",
        lint=lint,
        forecast=forecast["forecast"] if forecast else None,
        reasons=reasons,
    )


def _lint_path(file_id: str) -> str:
    return f"/v1/luthier/files/{quote(file_id, safe='')}/lint"


def _lint_params(form: dict[str, str]) -> dict[str, str]:
    names = ("validation_file", "method")
    return {name: form[name] for name in names if form.get(name)}


def body_of(form: dict[str, str]) -> Json:
    """The form as the API takes it. What is no number goes as it was typed, and the API says what it wants."""
    knobs = {knob: _number(form[knob]) for knob in KNOBS if form.get(knob, "").strip()}
    method = form.get("method") or "supervised"
    body: Json = {
        "model": form.get("model", ""),
        "training_file": form.get("training_file", ""),
        "method": {"type": method, method: {"hyperparameters": knobs}},
    }
    for key in ("validation_file", "suffix"):
        if form.get(key):
            body[key] = form[key]
    return body


async def _form(
    request: Request, viewer: Viewer, chosen: dict[str, str], problem: Json | None
) -> Response:
    files = await viewer.ask.get("/v1/files", {"purpose": "fine-tune", "limit": 100})
    models = await viewer.ask.get("/v1/models")
    fields = ("training_file", "validation_file", "model", "method", "suffix", *KNOBS)
    return viewer.page(
        request,
        "new.html",
        "new",
        files=files["data"],
        models=models["data"],
        methods=METHODS,
        chosen={field: chosen.get(field, "") for field in fields},
        problem=problem,
    )


async def _report(viewer: Viewer, job: Json) -> Json:
    """The report, or why there is none yet."""
    if job["status"] != "succeeded":
        wait = job["status"] not in wording.ENDED
        told = "Once the job is done, its model is compared with what its base can do without."
        return {"reason": told if wait else "Only a job that has succeeded has a report."}
    try:
        found = await viewer.ask.get(f"/v1/luthier/fine_tuning/jobs/{job['id']}/report")
    except ApiRefused as refused:
        return {"reason": refused.message}
    return found if "verdict" in found else {"reason": "The report is being made."}


def _path(request: Request) -> str:
    # An id of ours holds nothing that would have to be quoted; anything else is nobody's job.
    job_id = request.path_params["job_id"]
    return f"{_JOBS}/{job_id if job_id.replace('-', '').isalnum() else 'none'}"


def _status(job: Json, events: list[Json]) -> dict[str, Any]:
    metrics: Json = next((e["data"] for e in events if e["type"] == "metrics" and e["data"]), {})
    step, total = metrics.get("step"), metrics.get("total_steps")
    left_s = (job["estimated_finish"] or 0) - time.time()
    sentence = wording.state(job)
    if job["status"] == "running" and step:
        sentence += f", step {step} of {total}"
    if job["estimated_finish"] and job["status"] == "running":
        sentence += f", about {wording.duration(left_s)} left"
    took_s = job["finished_at"] - job["created_at"] if job["finished_at"] else None
    # Newest first: the last validation may be some steps back.
    valid = next(
        (e["data"]["valid_loss"] for e in events if "valid_loss" in (e["data"] or {})), None
    )
    tiles = [
        ("Step", f"{step} of {total}" if step else wording.MISSING),
        ("Training loss", wording.number(metrics.get("train_loss"))),
        ("Validation loss", wording.number(valid)),
        ("Tokens", wording.number(job["trained_tokens"] or metrics.get("num_tokens"))),
        ("Took" if took_s is not None else "Left", wording.duration(took_s if took_s is not None else (left_s if job["estimated_finish"] else None))),
    ]  # fmt: skip
    return {
        "is_over": job["status"] in wording.ENDED,
        "sentence": sentence,
        "tiles": tiles,
        "actions": [(action, ACTIONS[action]) for action in POSSIBLE.get(job["status"], ())],
    }


def _settings(job: Json) -> list[tuple[str, Any]]:
    asked = {
        "model": job["model"],
        "method": job["method"]["type"],
        "training file": job["training_file"],
        "validation file": job["validation_file"] or wording.MISSING,
        "seed": job["seed"],
        **{key: value for key, value in job["hyperparameters"].items() if value is not None},
        **{f"tuning: {key}": value for key, value in (job.get("tuning") or {}).items()},
    }
    return [(key.replace("_", " "), value) for key, value in asked.items()]


def _command(job: Json) -> str:
    parts = [f"luthier jobs create {job['training_file']} --model {job['model']}"]
    if job["method"]["type"] != "supervised":
        parts.append(f"--method {job['method']['type']}")
    if job["validation_file"]:
        parts.append(f"--validation-file {job['validation_file']}")
    return " ".join([*parts, f"--seed {job['seed']}"])


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
