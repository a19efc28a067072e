"""Batches on a real api, with a model that does what each line's text says."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import update

from errands.batches import run as batch_run
from errands.errands import Errands
from foundation.settings import Settings
from storage.files import files
from storage.files.files import FileRow
from storage.ids import new_id
from storage.inference import batches
from storage.inference.batches import BatchRow
from tests.api.stack import Api, Tenant, running, running_api
from tests.factories import Json, jsonl

CHAT = "/v1/chat/completions"


@dataclass
class Model:
    """An inference server. "bad …" is refused, "busy …" told to come back once, "wait …" waits."""

    asked: Counter[str] = field(default_factory=Counter)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    num_broken_off: int = 0
    is_open: bool = False
    """Those that wait are answered."""
    _now: int = 0

    async def answer(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        text = body["messages"][0]["content"]
        self.asked[text] += 1
        self.headers.append(dict(request.headers))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await self._reply(request, body, text)
        finally:
            self._now -= 1

    async def _reply(self, request: Request, body: Json, text: str) -> Response:
        if text.startswith("bad"):
            error = {"message": "Too long", "type": "invalid_request_error", "code": "too_long"}
            return JSONResponse({"error": error}, 400)
        if text.startswith("busy") and self.asked[text] == 1:
            error = {"message": "Busy", "type": "server_error"}
            return JSONResponse({"error": error}, 503, {"retry-after": "0"})
        while text.startswith("wait") and not self.is_open:
            if await request.is_disconnected():
                self.num_broken_off += 1
                break
            await asyncio.sleep(0.01)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": f"Re: {text}"},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        usage["prompt_tokens_details"] = {"cached_tokens": 1}  # type: ignore[assignment]
        return JSONResponse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        )


def classify(body: Json) -> Json:
    """A classifier finds that all which says so is hate."""
    data = []
    for index, text in enumerate(body["input"]):
        share = 0.9 if "hate" in text else 0.1
        shares = {"safe": 1 - share, "hate": share}
        data.append({"object": "classification", "index": index, "probabilities": shares})
    usage = {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def request(custom_id: str, text: str = "Hello", **values: Any) -> Json:
    """A line of an input file."""
    body = {"model": "tiny-random", "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **values}


def requests(count: int) -> list[Json]:
    return [request(f"line-{n}", f"Question {n}") for n in range(count)]


@dataclass
class BatchScene:
    """One api, one model, one project."""

    api: Api
    model: Model
    settings: Settings
    tenant: Tenant
    processes: list[Errands] = field(default_factory=list)

    def errands(self, **settings: Any) -> Errands:
        errands = Errands(self.settings.replace(**settings))
        self.processes.append(errands)
        return errands

    def file(self, content: Sequence[Json] | bytes, purpose: str = "batch") -> FileRow:
        data = content if isinstance(content, bytes) else jsonl(content)
        file_id = new_id("file-")
        with self.api.blobs.writer(files.blob_key(self.tenant.project_id, file_id)) as writer:
            writer.write(data)
            blob = writer.commit()
        with self.api.sessions.begin() as session:
            return files.create(
                session,
                file_id,
                project_id=self.tenant.project_id,
                filename="input.jsonl",
                purpose=purpose,
                blob=blob,
            )

    def batch(self, content: Sequence[Json] | bytes | FileRow, **values: Any) -> str:
        file = content if isinstance(content, FileRow) else self.file(content)
        with self.api.sessions.begin() as session:
            row = batches.create(
                session,
                f"batch_{uuid.uuid4().hex}",
                **{
                    "project_id": self.tenant.project_id,
                    "endpoint": CHAT,
                    "input_file_id": file.id,
                    "metadata": None,
                    "output_expires_after_s": None,
                    **values,
                },
            )
        return row.id

    def run(self, batch_id: str, errands: Errands | None = None) -> BatchRow:
        batch_run.run(errands or self.errands(), batch_id)
        return self.row(batch_id)

    def row(self, batch_id: str) -> BatchRow:
        with self.api.sessions() as session:
            return batches.get(session, self.tenant.project_id, batch_id)

    def set(self, batch_id: str, **values: Any) -> None:
        """Write columns, past all the rules."""
        with self.api.sessions.begin() as session:
            session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(**values))

    def cancel(self, batch_id: str) -> BatchRow:
        with self.api.sessions.begin() as session:
            return batches.cancel(session, self.tenant.project_id, batch_id)

    def lines(self, file_id: str | None) -> list[Json]:
        """What a file holds; nothing if there is none."""
        if file_id is None:
            return []
        with self.api.sessions() as session:
            file = files.get(session, self.tenant.project_id, file_id)
        data = b"".join(
            self.api.blobs.read(file.blob_key, size_bytes=file.size_bytes, sha256=file.sha256)
        )
        return [json.loads(line) for line in data.splitlines()]

    def answers(self, batch_id: str) -> tuple[list[Json], list[Json]]:
        """The lines of the output and of the error file."""
        row = self.row(batch_id)
        return self.lines(row.output_file_id), self.lines(row.error_file_id)

    def chunk_keys(self) -> list[str]:
        return list(self.api.blobs.list("batches/"))


@dataclass
class Stage:
    """A running api and its model, for one scene after the other."""

    api: Api
    models: list[Model]
    settings: Settings

    @contextmanager
    def scene(self) -> Iterator[BatchScene]:
        self.models.append(Model())
        scene = BatchScene(self.api, self.models[-1], self.settings, self.api.tenant())
        try:
            yield scene
        finally:
            for errands in scene.processes:
                errands.close()
            with self.api.sessions.begin() as session:
                session.execute(update(BatchRow).values(status="cancelled", lease_owner=None))


@contextmanager
def batch_stage(settings: Settings) -> Iterator[Stage]:
    """`settings` without backends and keys."""
    models: list[Model] = []
    app = FastAPI()

    @app.post(CHAT, response_model=None)
    async def answer(request: Request) -> Response:
        return await models[-1].answer(request)

    @app.post("/v1/luthier/classifications", response_model=None)
    async def answer_labels(request: Request) -> Response:
        return JSONResponse(classify(orjson.loads(await request.body())))

    with running(app) as model_url:
        settings = settings.replace(
            backends={"tiny-random": (model_url,)}, internal_key="between the processes"
        )
        with running_api(settings) as api:
            yield Stage(api, models, settings.replace(api_url=api.url, batch_concurrency=4))
