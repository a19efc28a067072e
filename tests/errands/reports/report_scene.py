"""Reports on a real api, with models that answer what a test's script says."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import func, update

from errands.errands import Errands
from errands.reports import run as report_run
from errands.reports.context import Section
from errands.reports.sections.changed import Changed
from errands.reports.sections.cost import Cost
from errands.reports.sections.measured import Measured
from errands.reports.sections.prompts_tried import PromptsTried
from foundation.settings import Settings
from storage.files import files
from storage.ids import new_id
from storage.jobs import events, jobs
from storage.jobs.jobs import JobRow
from storage.reports import reports
from storage.reports.reports import Depth, ReportRow
from tests.api.stack import Api, Tenant, running, running_api
from tests.factories import Json, chat_row, jsonl

COLOURS = ("red", "green", "blue", "grey")
SIZES = ("small", "large")
SYSTEM = "Say what it is."


def row(number: int) -> Json:
    """What it is, its number says and no word, so neighbours know nothing."""
    colour, size = COLOURS[number * number % 7 % 4], SIZES[number // 3 % 2]
    return chat_row(f"It{number} looks well", json.dumps({"colour": colour, "size": size}), SYSTEM)


def wanted(asked: str) -> str:
    """What such a question's answer is."""
    number = int(asked.split()[0].removeprefix("It"))
    return str(row(number)["messages"][-1]["content"])


def compared_sections() -> list[Section]:
    """Those that compare contenders; the others have tests of their own."""
    return [PromptsTried(), Measured(), Changed(), Cost()]


Script = Callable[[str, Sequence[Json]], str]
"""(the name that the inference server hears, the messages) -> the answer."""


@dataclass
class Models:
    """An inference server."""

    tuned: str = ""
    script: Script = lambda _model, _messages: "I do not know."
    likelihood: float = 0.5
    """That the tuned model finds in each token of an answer; the base finds half of it."""
    likes: Callable[[str, str], float] = lambda _model, _text: -1.0
    """The log-probability that a model finds in each character of a text among several."""
    asked: Counter[str] = field(default_factory=Counter)
    """By the model and all that was said."""
    most_at_once: int = 0
    _now: int = 0

    async def answer(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        if isinstance(body.get("prompt"), list) and isinstance(body["prompt"][0], str):
            return self._liked(body)
        messages = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
        self.asked[f"{body['model']} {messages}"] += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            text = self.script(body["model"], messages)
        finally:
            self._now -= 1
        usage = {"prompt_tokens": len(str(messages)) // 4, "completion_tokens": 9}
        usage["total_tokens"] = sum(usage.values())
        said: Json = {"index": 0, "finish_reason": "stop"}
        if "messages" in body:
            said["message"] = {"role": "assistant", "content": text}
        elif body.get("echo"):
            logprob = math.log(self.likelihood / (1 if body["model"] == self.tuned else 2))
            logprobs = [None, *(logprob for _ in body["prompt"][1:])]
            said |= {"text": "", "logprobs": {"token_logprobs": logprobs}}
        else:
            said |= {"text": text, "logprobs": None}
        kind = "chat.completion" if "messages" in body else "text_completion"
        about = {"id": "x-1", "object": kind, "created": 1, "model": body["model"]}
        return JSONResponse({**about, "choices": [said], "usage": usage})

    def _liked(self, body: Json) -> Response:
        """A token is a character."""
        model = str(body["model"])
        choices = [
            {
                "index": index,
                "text": "",
                "finish_reason": "length",
                "logprobs": {
                    "text_offset": list(range(len(text))),
                    "token_logprobs": [None, *[self.likes(model, text)] * (len(text) - 1)],
                },
            }
            for index, text in enumerate(body["prompt"])
        ]
        about = {"id": "x-1", "object": "text_completion", "created": 1, "model": model}
        usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
        return JSONResponse({**about, "choices": choices, "usage": usage})


def knows(share: float) -> Script:
    """The tuned model answers that share of the questions right, the base none."""

    def script(model: str, messages: Sequence[Json]) -> str:
        asked = str(messages[-1]["content"])
        number = int(asked.split()[0].removeprefix("It"))
        if model == "tiny-random" or number % 100 >= 100 * share:
            return '{"colour": "black", "size": "small"}'
        return wanted(asked)

    return script


@dataclass
class ReportScene:
    api: Api
    models: Models
    settings: Settings
    tenant: Tenant
    processes: list[Errands] = field(default_factory=list)

    def errands(self, **settings: Any) -> Errands:
        errands = Errands(self.settings.replace(**settings))
        self.processes.append(errands)
        return errands

    def file(self, rows: Sequence[Json]) -> str:
        file_id = new_id("file-")
        with self.api.blobs.writer(files.blob_key(self.tenant.project_id, file_id)) as writer:
            writer.write(jsonl(rows))
            blob = writer.commit()
        with self.api.sessions.begin() as session:
            files.create(
                session,
                file_id,
                project_id=self.tenant.project_id,
                filename="rows.jsonl",
                purpose="fine-tune",
                blob=blob,
            )
        return file_id

    def job(
        self,
        training: Sequence[Json],
        holdout: Sequence[Json] | None,
        *,
        depth: Depth = "auto",
        asked: Json | None = None,
        method: str = "supervised",
        weights: bytes = b"weights",
    ) -> JobRow:
        """One that has succeeded, with a report to be made."""
        model = self.api.tuned_model(self.tenant, weights)
        self.models.tuned = model.artifact_id
        fields: Json = {
            "id": new_id("ftjob-"),
            "project_id": self.tenant.project_id,
            "organization_id": "org-1",
            "organization_slug": "acme",
            "status": "succeeded",
            "model": "tiny-random",
            "base_model": "tiny-random",
            "training_file": self.file(training),
            "validation_file": None if holdout is None else self.file(holdout),
            "method": method,
            "hyperparameters": {},
            "seed": 7,
            "fine_tuned_model": model.name,
            "claimed_at": func.clock_timestamp(),
            "finished_at": func.clock_timestamp(),
        }
        with self.api.sessions.begin() as session:
            row = jobs.create(session, JobRow(**fields))
            reports.create(
                session,
                project_id=row.project_id,
                job_id=row.id,
                depth=depth,
                asked=asked or {},
            )
            session.flush()
            session.refresh(row)
            session.expunge(row)
        return row

    def run(self, job: JobRow, errands: Errands | None = None) -> ReportRow:
        report_run.run(errands or self.errands(), self.row(job).id)
        return self.row(job)

    def row(self, job: JobRow) -> ReportRow:
        with self.api.sessions() as session:
            found = reports.find(session, job.project_id, job.id)
        assert found is not None
        return found

    def report(self, job: JobRow) -> Json:
        """What the errand made."""
        row = self.row(job)
        assert row.status == "succeeded", row.error
        assert row.blob_key is not None
        assert row.size_bytes is not None
        assert row.sha256 is not None
        data = self.api.blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256)
        found: Json = orjson.loads(b"".join(data))
        return found

    def told(self, job: JobRow) -> list[str]:
        with self.api.sessions() as session:
            return [each.message for each in events.since(session, job.id, 0, limit=100)]


@dataclass
class ReportStage:
    api: Api
    models: list[Models]
    settings: Settings

    @contextmanager
    def scene(self) -> Iterator[ReportScene]:
        self.models.append(Models())
        scene = ReportScene(self.api, self.models[-1], self.settings, self.api.tenant())
        try:
            yield scene
        finally:
            for errands in scene.processes:
                errands.close()
            with self.api.sessions.begin() as session:
                session.execute(update(ReportRow).values(status="failed", lease_owner=None))


@contextmanager
def report_stage(settings: Settings) -> Iterator[ReportStage]:
    """`settings` without backends and keys."""
    models: list[Models] = []
    app = FastAPI()

    @app.post("/v1/chat/completions", response_model=None)
    @app.post("/v1/completions", response_model=None)
    async def answer(request: Request) -> Response:
        return await models[-1].answer(request)

    with running(app) as model_url:
        settings = settings.replace(
            backends={"tiny-random": (model_url,)}, internal_key="between the processes"
        )
        with running_api(settings) as api:
            yield ReportStage(api, models, settings.replace(api_url=api.url))
