"""A small server of OpenAI's shape, so that the client's behaviour can be tested without a stack.

Its state is plain lists in the test's own process: a test adds events while the client follows.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import UploadFile

KEY = "sk-test"
JOB = "ftjob-1"
MODEL = "ft:tiny-random:org::abcd1234"

Object = dict[str, Any]


def event(number: int, message: str | None = None, data: Object | None = None) -> Object:
    return {
        "id": f"ftevent-{number}",
        "object": "fine_tuning.job.event",
        "created_at": 1_700_000_000 + number,
        "level": "info",
        "message": message or f"event {number}",
        "type": "message" if data is None else "metrics",
        "data": data,
    }


def step_event(step: int, total_steps: int, **data: float) -> Object:
    metrics = {
        "step": step,
        "total_steps": total_steps,
        "train_loss": 1.5,
        "num_tokens": step * 100,
    }
    return event(step, f"Step {step}/{total_steps}: training loss=1.50", metrics | data)


def job(job_id: str = JOB, **fields: Any) -> Object:
    return {
        "id": job_id,
        "object": "fine_tuning.job",
        "created_at": 1_700_000_000,
        "model": "tiny-random",
        "status": "running",
        "fine_tuned_model": None,
        "error": None,
        "hyperparameters": {},
        "organization_id": "org",
        "result_files": [],
        "seed": 1,
        "training_file": "file-1",
    } | fields


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, content: bytes = b"{}", type: bytes = tarfile.REGTYPE) -> tuple[Any, bytes]:
    info = tarfile.TarInfo(name)
    info.type = type
    info.size = len(content) if type == tarfile.REGTYPE else 0
    return info, content


def adapter_tar(*more: tuple[Any, bytes]) -> bytes:
    """A good adapter, with what the test adds."""
    weights = bytes(range(256)) * 8192
    return tar(member("adapter_config.json"), member("adapter_model.safetensors", weights), *more)


@dataclass
class FakeApi:
    jobs: dict[str, Object] = field(default_factory=lambda: {JOB: job()})
    events: list[Object] = field(default_factory=list)
    """Oldest first; the API lists them newest first."""
    files: dict[str, Object] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, Object] = field(default_factory=dict)
    aliases: dict[str, Object] = field(default_factory=dict)
    archive: bytes = field(default_factory=adapter_tar)
    archive_kind: str | None = "lora"
    """Not told by servers that know LoRA alone."""
    requests: list[tuple[str, Any]] = field(default_factory=list)
    """Bodies of what was created, with their paths."""
    num_polls: int = 0
    before_events_page: Callable[[], None] = lambda: None
    """Runs before each page of events is read."""
    drop: int = 0
    """So many of the next replies break off in the middle."""
    base_url: str = ""

    def reset(self) -> None:
        """As new, for the next test."""
        model = {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "org"}
        vars(self).update(vars(FakeApi(base_url=self.base_url, models={MODEL: model})))

    def app(self) -> FastAPI:
        app = FastAPI()
        app.middleware("http")(self._check)
        _add_job_routes(app, self)
        _add_file_routes(app, self)
        _add_model_routes(app, self)
        _add_alias_routes(app, self)
        return app

    async def _check(self, request: Request, call_next: Callable[..., Any]) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return error(401, "Incorrect API key provided")
        response: Response = await call_next(request)
        if self.drop:
            self.drop -= 1
            return StreamingResponse(_break_off(), headers={"content-length": "1000000"})
        return response


async def _break_off() -> AsyncIterator[bytes]:
    yield b'{"data": ['
    raise ConnectionResetError


def error(status: int, message: str, **fields: str) -> JSONResponse:
    return JSONResponse(
        {"error": {"message": message, "type": "invalid_request_error"} | fields}, status
    )


def cursor_page(newest_first: list[Object], after: str | None, limit: int) -> Object:
    ids = [item["id"] for item in newest_first]
    start = ids.index(after) + 1 if after in ids else 0
    data = newest_first[start : start + limit]
    has_more = start + limit < len(newest_first)
    return {"object": "list", "data": data, "has_more": has_more}


def _add_job_routes(app: FastAPI, api: FakeApi) -> None:
    @app.get("/v1/fine_tuning/jobs")
    def list_jobs(limit: int = 20, after: str | None = None) -> Object:
        return cursor_page(list(api.jobs.values()), after, limit)

    @app.post("/v1/fine_tuning/jobs")
    def create_job(body: Object) -> Object:
        api.requests.append(("jobs", body))
        return api.jobs[JOB]

    @app.get("/v1/fine_tuning/jobs/{job_id}", response_model=None)
    def retrieve_job(job_id: str) -> Object | Response:
        api.num_polls += 1
        if job_id not in api.jobs:
            return error(404, f"Could not find fine tune: {job_id}", code="fine_tune_not_found")
        return dict(api.jobs[job_id])

    @app.post("/v1/fine_tuning/jobs/{job_id}/cancel")
    def cancel_job(job_id: str) -> Object:
        api.jobs[job_id]["status"] = "cancelled"
        return api.jobs[job_id]

    @app.post("/v1/fine_tuning/jobs/{job_id}/pause")
    def pause_job(job_id: str) -> Object:
        before = dict(api.jobs[job_id])
        api.jobs[job_id]["status"] = "paused"
        return before

    @app.post("/v1/fine_tuning/jobs/{job_id}/resume")
    def resume_job(job_id: str) -> Object:
        api.jobs[job_id]["status"] = "queued"
        return api.jobs[job_id]

    @app.get("/v1/fine_tuning/jobs/{job_id}/events")
    def list_events(job_id: str, limit: int = 20, after: str | None = None) -> Object:
        api.before_events_page()
        return cursor_page(api.events[::-1], after, limit)

    @app.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
    def list_checkpoints(job_id: str, limit: int = 10, after: str | None = None) -> Object:
        checkpoint = {
            "id": "ftckpt_1",
            "object": "fine_tuning.job.checkpoint",
            "created_at": 1_700_000_000,
            "fine_tuned_model_checkpoint": f"{MODEL}:ckpt-step-7",
            "fine_tuning_job_id": job_id,
            "metrics": {"step": 7.0},
            "step_number": 7,
        }
        return cursor_page([checkpoint], after, limit)


def _add_file_routes(app: FastAPI, api: FakeApi) -> None:
    @app.post("/v1/files")
    async def create_file(request: Request) -> Object:
        async with request.form() as form:
            upload, purpose = form["file"], form["purpose"]
            assert isinstance(upload, UploadFile)
            content = await upload.read()
        file_id = f"file-{len(api.files) + 1}"
        api.contents[file_id] = content
        api.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "filename": upload.filename,
            "purpose": purpose,
            "status": "processed",
        }
        return api.files[file_id]

    @app.get("/v1/files")
    def list_files(purpose: str | None = None, limit: int = 20, after: str | None = None) -> Object:
        files = [f for f in api.files.values() if purpose in (None, f["purpose"])]
        return cursor_page(files, after, limit)

    @app.get("/v1/files/{file_id}", response_model=None)
    def retrieve_file(file_id: str) -> Object | Response:
        return api.files.get(file_id) or error(404, f"No such File object: {file_id}")

    @app.delete("/v1/files/{file_id}")
    def delete_file(file_id: str) -> Object:
        del api.files[file_id]
        return {"id": file_id, "object": "file", "deleted": True}

    @app.get("/v1/files/{file_id}/content")
    def content(file_id: str) -> Response:
        body = api.contents[file_id]
        if api.files[file_id]["purpose"] == "fine-tune-results":
            body = base64.b64encode(body)
        return Response(body, media_type="application/octet-stream")


def _add_model_routes(app: FastAPI, api: FakeApi) -> None:
    @app.get("/v1/models")
    def list_models() -> Object:
        return {"object": "list", "data": list(api.models.values())}

    @app.get("/v1/models/{model}", response_model=None)
    def retrieve_model(model: str) -> Object | Response:
        return api.models.get(model) or error(404, f"The model '{model}' does not exist")

    @app.delete("/v1/models/{model}")
    def delete_model(model: str) -> Object:
        del api.models[model]
        return {"id": model, "object": "model", "deleted": True}

    @app.get("/v1/luthier/models/{model:path}/adapter")
    def adapter(model: str) -> Response:
        if model not in api.models:
            return error(404, f"The model '{model}' does not exist")
        headers = {"x-luthier-artifact-kind": api.archive_kind} if api.archive_kind else None
        return Response(api.archive, media_type="application/x-tar", headers=headers)

    @app.post("/v1/chat/completions")
    def chat(body: Object) -> Response:
        api.requests.append(("chat", body))
        if body["model"] not in api.models:
            return error(404, f"The model `{body['model']}` does not exist")
        words = f"You said {body['messages'][-1]['content']}".split(" ")
        return StreamingResponse(_stream(words), media_type="text/event-stream")

    @app.post("/v1/luthier/classifications", response_model=None)
    def classify(body: Object) -> Object | Response:
        api.requests.append(("classifications", body))
        if body["model"] not in api.models:
            return error(404, f"The model `{body['model']}` does not exist")
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        return {
            "object": "list",
            "model": MODEL,
            "data": list(map(_judged, *zip(*enumerate(texts), strict=True))),
            "usage": {},
        }


def _judged(index: int, text: str) -> Object:
    """Whoever is late is angry."""
    label = "angry" if "late" in text else "calm"
    shares = {"angry": 0.25, "calm": 0.25, label: 0.75}
    return {
        "object": "classification",
        "index": index,
        "label": label,
        "probability": 0.75,
        "probabilities": shares,
    }


def _stream(words: list[str]) -> Iterator[str]:
    for number, word in enumerate(words):
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": MODEL,
            "choices": [
                {"index": 0, "delta": {"content": " " * bool(number) + word}, "finish_reason": None}
            ],
        }
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def _add_alias_routes(app: FastAPI, api: FakeApi) -> None:
    @app.post("/v1/luthier/aliases")
    def bind(body: Object) -> Object:
        api.aliases[body["alias"]] = {"object": "model.alias", "created_at": 1_700_000_000, **body}
        return api.aliases[body["alias"]]

    @app.get("/v1/luthier/aliases")
    def list_aliases(limit: int, after: str = "") -> Object:
        rest = [api.aliases[alias] for alias in sorted(api.aliases) if alias > after]
        return {"object": "list", "data": rest[:limit], "has_more": len(rest) > limit}

    @app.delete("/v1/luthier/aliases/{alias:path}", response_model=None)
    def unbind(alias: str) -> Object | Response:
        if api.aliases.pop(alias, None) is None:
            return error(404, f"No such alias: {alias}")
        return {"object": "model.alias", "alias": alias, "deleted": True}


@contextmanager
def serving(api: FakeApi) -> Iterator[None]:
    """Run it on a free port of the loopback interface; `api.base_url` says where."""
    config = uvicorn.Config(api.app(), host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    api.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
